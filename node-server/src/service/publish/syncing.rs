//! Asking the disk, beside an upload, to write what has come of it: then its end waits for little.
//!
//! A system says that a write failed to the first that syncs the file, and to nobody after. So what a sync has said is always
//! heard, however the upload ends.

use std::io;

use tokio::task::JoinHandle;

/// The sync that runs beside one upload, if one does.
#[derive(Debug, Default)]
pub(super) struct Syncing {
    running: Option<JoinHandle<io::Result<()>>>,
    unsynced: u64,
}

impl Syncing {
    /// So many bytes more are written. Begins to sync them now and then, if the last sync is over, and waits for none that
    /// runs. The error is one of a sync before.
    pub(super) async fn wrote(
        &mut self,
        bytes: u64,
        sync: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.unsynced += bytes;
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end().await?;
        }
        if self.running.is_none() && self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.running = Some(tokio::task::spawn_blocking(sync));
        }
        Ok(())
    }

    /// Waits for the sync that runs.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let ended = running.await;
        self.running = None;
        ended.unwrap_or_else(|_| Err(io::Error::other("a sync was cut off inside the node")))
    }
}

/// Bytes after which the disk is asked to write.
const SYNC_EVERY: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn never() -> io::Result<()> {
        panic!("this one is not due")
    }

    // r[verify publish.durable]
    #[tokio::test]
    async fn what_a_sync_has_said_is_heard_at_the_next_look_or_at_the_end_and_no_upload_waits_in_between() {
        let (open, gate) = mpsc::channel();
        let failing = move || {
            gate.recv().unwrap();
            Err(io::ErrorKind::StorageFull.into())
        };
        let mut syncing = Syncing::default();
        syncing.wrote(SYNC_EVERY - 1, never).await.unwrap();
        syncing.wrote(1, failing).await.unwrap();
        // It runs, so no other begins.
        syncing.wrote(SYNC_EVERY, never).await.unwrap();
        open.send(()).unwrap();
        assert_eq!(syncing.end().await.unwrap_err().kind(), io::ErrorKind::StorageFull);

        let mut syncing = Syncing::default();
        syncing.wrote(SYNC_EVERY, || Err(io::ErrorKind::StorageFull.into())).await.unwrap();
        let heard = async {
            loop {
                match syncing.wrote(1, never).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) => break error,
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
        assert_eq!(heard.kind(), io::ErrorKind::StorageFull);
        assert!(syncing.end().await.is_ok(), "once");
    }

    #[tokio::test]
    async fn a_sync_that_panics_has_failed() {
        let mut syncing = Syncing::default();
        syncing.wrote(SYNC_EVERY, || panic!("on purpose")).await.unwrap();
        assert!(syncing.end().await.is_err());
        assert!(syncing.end().await.is_ok());
    }
}
