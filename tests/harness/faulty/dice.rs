//! Seeded chance: the same seed throws the same faults.

/// A small generator (splitmix64). Not for keys.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True in `percent` of a hundred throws.
    pub const fn strikes(&mut self, percent: u8) -> bool {
        self.below(100) < percent as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_falls_one_way_and_percents_are_about_right() {
        let mut dice = Dice::new(7);
        let first: Vec<u64> = (0..8).map(|_| dice.roll()).collect();
        let mut again = Dice::new(7);
        assert!(first.iter().all(|rolled| *rolled == again.roll()));
        let struck = (0..10_000).filter(|_| dice.strikes(90)).count();
        assert!((8_800..9_200).contains(&struck), "{struck}");
        assert!(!(0..1_000).any(|_| dice.strikes(0)) && (0..1_000).all(|_| dice.strikes(100)));
    }
}
