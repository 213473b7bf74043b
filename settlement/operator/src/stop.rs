//! The word to stop, for every task at once.

use tokio::sync::watch;

/// Hears the word. The teller's disappearance is the word as well.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A teller and a hearer, which may be cloned.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (teller, hearer) = watch::channel(false);
        (teller, Self(hearer))
    }

    /// Waits for the word.
    pub(crate) async fn told(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
