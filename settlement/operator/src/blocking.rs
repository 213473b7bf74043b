//! Store calls sync to disk, so they leave the async threads.

use crate::vouchers::StoreError;

/// Runs a store call on a thread that may block.
pub(crate) async fn blocking<T, F>(call: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        // The call panicked, or the runtime is going down: what it did is unknown, so it counts as not done.
        Err(error) => Err(StoreError::Database(format!("the call was interrupted: {error}"))),
    }
}
