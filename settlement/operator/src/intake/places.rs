//! Places for connections: so many in all, so many from one IP address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts places. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Places {
    max: usize,
    max_per_ip: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    ip: IpAddr,
}

impl Places {
    pub(super) fn new(max: usize, max_per_ip: usize) -> Self {
        Self { max, max_per_ip, taken: Arc::default() }
    }

    /// A place for a connection from `ip`, if there is one.
    pub(super) fn take(&self, ip: IpAddr) -> Option<Place> {
        let ip = ip.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.max {
            return None;
        }
        let from_ip = taken.entry(ip).or_default();
        if *from_ip >= self.max_per_ip {
            return None;
        }
        *from_ip += 1;
        Some(Place { places: self.clone(), ip })
    }

    /// True if many are taken: addresses should prove themselves before they get one.
    pub(super) fn are_scarce(&self) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum::<usize>() >= self.max / 2
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_come_back() {
        let places = Places::new(4, 2);
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = places.take(a).unwrap();
        assert!(!places.are_scarce());
        let _second = places.take(a).unwrap();
        assert!(places.are_scarce());
        // An IPv4 address in IPv6 form is the same address.
        assert!(places.take("::ffff:127.0.0.1".parse().unwrap()).is_none());
        let _others = [places.take(b).unwrap(), places.take(b).unwrap()];
        assert!(places.take(IpAddr::from([127, 0, 0, 3])).is_none());
        drop(first);
        assert!(places.take(a).is_some());
    }
}
