//! The connections that are bound to one channel, by the ids that their agents gave them, so that a later binding can end
//! those whose processes have died, and say what those had proven.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::channel::Delivered;
use aro_proto::limits::MAX_REPLACED;
use aro_proto::message::BindId;
use tokio::sync::{Notify, watch};

/// Who is bound, who was, and who was replaced lately.
#[derive(Debug, Default)]
pub(crate) struct Seats(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    taken: Vec<Taken>,
    /// Those that have ended and were not named yet, the oldest first, and what was delivered on them.
    ended: VecDeque<(BindId, Delivered)>,
    /// Of these a binding may still be on its way.
    gone: VecDeque<BindId>,
}

#[derive(Debug)]
struct Taken {
    id: BindId,
    leave: Arc<Notify>,
    /// Its end tells that the seat is empty.
    left: watch::Sender<()>,
}

/// A bound connection's place. Dropped once all its streams are settled.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Mutex<State>>,
    id: BindId,
    delivered: Delivered,
}

/// One that was told to leave.
#[derive(Debug)]
pub(crate) struct Leaving(watch::Receiver<()>);

impl Seats {
    /// Binds a connection by its id; `leave` wakes it when it is replaced. `None` if that has happened already, or another
    /// connection has this id.
    // r[impl bind.replace.late]
    pub(crate) fn take(&self, id: BindId, leave: &Arc<Notify>) -> Option<Seat> {
        let mut state = lock(&self.0);
        if state.gone.contains(&id) || state.taken.iter().any(|taken| taken.id == id) {
            return None;
        }
        state.taken.push(Taken { id, leave: Arc::clone(leave), left: watch::Sender::default() });
        Some(Seat { seats: Arc::clone(&self.0), id, delivered: Delivered::default() })
    }

    /// Tells these connections to leave, those of them that are bound.
    // r[impl bind.replace]
    pub(crate) fn vacate(&self, ids: &[BindId]) -> Vec<Leaving> {
        let mut state = lock(&self.0);
        for id in ids {
            if !state.gone.contains(id) {
                state.gone.push_back(*id);
            }
        }
        keep_newest(&mut state.gone, REMEMBERED);
        let told = state.taken.iter().filter(|taken| ids.contains(&taken.id));
        told.map(|taken| {
            taken.leave.notify_one();
            Leaving(taken.left.subscribe())
        })
        .collect()
    }

    /// What was delivered on a binding that has ended, once: whoever asks settles it.
    pub(crate) fn take_delivered(&self, id: BindId) -> Option<Delivered> {
        let mut state = lock(&self.0);
        let place = state.ended.iter().position(|(ended, _)| *ended == id)?;
        state.ended.remove(place).map(|(_, delivered)| delivered)
    }
}

impl Seat {
    /// Counts what was delivered on one of its streams.
    pub(crate) fn delivers(&mut self, delivered: Delivered) {
        self.delivered.add(delivered);
    }
}

impl Leaving {
    /// Returns when the connection's last stream is settled.
    pub(crate) async fn left(mut self) {
        // Nothing is ever sent.
        let _ = self.0.changed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.seats);
        if !self.delivered.is_settled() {
            state.ended.push_back((self.id, self.delivered));
            keep_newest(&mut state.ended, MAX_REPLACED);
        }
        state.taken.retain(|taken| taken.id != self.id);
    }
}

fn keep_newest<T>(items: &mut VecDeque<T>, most: usize) {
    let beyond = items.len().saturating_sub(most);
    items.drain(..beyond);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaced ids that a channel remembers: two bindings' worth.
const REMEMBERED: usize = 2 * MAX_REPLACED;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> BindId {
        BindId::from_bytes([byte; 16])
    }

    // r[verify bind.replace]
    #[tokio::test]
    async fn only_those_who_are_named_leave_and_they_are_waited_for() {
        let (seats, [first, second]) = (Seats::default(), [Arc::<Notify>::default(), Arc::default()]);
        let (dead, live) = (seats.take(id(1), &first).unwrap(), seats.take(id(2), &second).unwrap());
        let mut leaving = seats.vacate(&[id(1), id(7)]);
        first.notified().await;
        assert_eq!(leaving.len(), 1);
        let left = tokio::spawn(leaving.pop().unwrap().left());
        tokio::task::yield_now().await;
        assert!(!left.is_finished());
        drop(dead);
        left.await.unwrap();
        assert!(seats.vacate(&[id(1)]).is_empty());
        let told = tokio::time::timeout(std::time::Duration::ZERO, second.notified()).await;
        assert!(told.is_err(), "who was not named stays");
        drop(live);
    }

    // r[verify bind.replace.late]
    #[test]
    fn a_binding_that_comes_after_it_was_replaced_gets_no_seat_and_what_is_remembered_is_bounded() {
        let (seats, leave) = (Seats::default(), Arc::default());
        assert!(seats.vacate(&[id(1)]).is_empty());
        assert!(seats.take(id(1), &leave).is_none());
        let _seat = seats.take(id(2), &leave).unwrap();
        assert!(seats.take(id(2), &leave).is_none(), "an id names one connection");
        for other in 3..200 {
            seats.vacate(&[id(other)]);
        }
        assert_eq!(lock(&seats.0).gone.len(), REMEMBERED);
        assert!(seats.take(id(1), &leave).is_some());
    }
}
