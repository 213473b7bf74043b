//! Places for connections, so that one peer cannot take them all. No sockets: who accepts asks for a place first.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many places in all, so many for one [network](network_of). Clones count together.
#[derive(Clone, Debug)]
pub struct Places {
    max: usize,
    max_per_network: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    network: IpAddr,
}

/// What a peer cannot change at will: its IPv4 address, or the first 64 bits of its IPv6 address, which is what a single
/// customer gets.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

impl Places {
    /// All places, all free.
    pub fn new(max: usize, max_per_network: usize) -> Self {
        Self { max, max_per_network, taken: Arc::default() }
    }

    /// A place for a connection from `ip`, if there is one.
    pub fn take(&self, ip: IpAddr) -> Option<Place> {
        let network = network_of(ip);
        let mut taken = self.lock();
        if taken.values().sum::<usize>() >= self.max {
            return None;
        }
        let from_there = taken.entry(network).or_default();
        if *from_there >= self.max_per_network {
            return None;
        }
        *from_there += 1;
        Some(Place { places: self.clone(), network })
    }

    /// Places taken.
    pub fn count(&self) -> usize {
        self.lock().values().sum()
    }

    /// True if half of them are taken: addresses should prove themselves before they get one.
    pub fn are_scarce(&self) -> bool {
        self.count() >= self.max / 2
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Whatever panics in between leaves no count half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
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
        assert!(places.take(a).is_none());
        // An IPv4 address in IPv6 form is the same address.
        assert!(places.take("::ffff:127.0.0.1".parse().unwrap()).is_none());
        let _others = [places.take(b).unwrap(), places.take(b).unwrap()];
        assert!(places.take(IpAddr::from([127, 0, 0, 3])).is_none());
        drop(first);
        assert!(places.take(a).is_some());
        assert_eq!(places.count(), 3);
    }

    #[test]
    fn ipv6_network_counts_as_one_address() {
        let places = Places::new(10, 1);
        let _first = places.take("2001:db8:1:2::1".parse().unwrap()).unwrap();
        assert!(places.take("2001:db8:1:2:ffff::9".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:1:3::1".parse().unwrap()).is_some());
    }
}
