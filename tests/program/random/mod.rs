//! Random sequences of instructions, on the real ELF and on the plain model side by side.
//!
//! What could break: a sum that does not add up after some order of events, an answer that the spec does not give,
//! a channel that pays twice or comes back, money or lamports that appear or vanish. After every step both sides
//! must have answered alike, every account must be what the model says to the last byte, and the invariants of
//! [`compare`] must hold.
//!
//! `ARO_SEED` repeats a world, `ARO_STEPS` sets the number of steps over all worlds.

mod cast;
mod choose;
mod compare;
mod op;
mod play;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use settlement_interface::{errors::SettlementError, instructions::tag};

use crate::{
    model::{Done, Refusal},
    seed::{Chance, setting},
};
use cast::Cast;
use choose::Chooser;
use compare::Memory;
use op::{ChannelName, Op};
use play::Stage;

/// Steps of an ordinary run, and of one world: a fresh one brings registrations and first deposits back.
const STEPS: u64 = 3_000;
const STEPS_OF_A_WORLD: u64 = 1_000;

#[test]
// r[verify settlement.vault.solvent]
// r[verify settlement.batch.skip]
// r[verify settlement.batch.fail]
// r[verify settlement.fees.conserved]
fn program_and_model_agree_on_every_step_of_random_sequences() {
    let first = setting("ARO_SEED").unwrap_or(1);
    let steps = setting("ARO_STEPS").unwrap_or(STEPS);
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut left = steps;
    for seed in first.. {
        let here = left.min(STEPS_OF_A_WORLD);
        run(seed, here, &mut tally);
        left -= here;
        if left == 0 {
            println!("seeds {first} to {seed}: {steps} steps in {:?}\n{tally}", begun.elapsed());
            break;
        }
    }
    if steps >= STEPS {
        tally.assert_broad();
    }
}

/// One world. A failure prints the seed and the shortest list of steps that was found to fail as well.
fn run(seed: u64, steps: u64, tally: &mut Tally) {
    let mut chance = Chance::new(seed);
    let cast = Cast::gather(&mut chance);
    let (world, model) = cast.set_stage(&mut chance);
    let mut stage = Stage { cast: &cast, world, model, fees: 0 };
    let mut memory = Memory::default();
    memory.check(&stage).unwrap_or_else(|wrong| panic!("before the first step: {wrong}"));
    let (mut told, mut gone) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let before: Vec<_> = stage.model.channels.values().cloned().collect();
        let op = Chooser { chance: &mut chance, cast: &cast, model: &stage.model, gone: &gone }.next();
        told.push(op);
        if let Err(wrong) = one_step(&mut stage, &mut memory, &told[told.len() - 1], tally) {
            let short = shorten(seed, &told);
            let list: String = short.iter().map(|op| format!("\n  {op:?}")).collect();
            panic!("ARO_SEED={seed} fails at step {step}: {wrong}\n{} of its steps fail as well:{list}", short.len());
        }
        for channel in before {
            let name = cast.name(&channel.agent, &channel.node, channel.nonce);
            if !stage.model.channels.contains_key(&cast.channel(name)) {
                remember(&mut gone, name);
            }
        }
    }
}

fn remember(gone: &mut Vec<ChannelName>, name: ChannelName) {
    const ENOUGH: usize = 8;
    if gone.len() == ENOUGH {
        gone.remove(0);
    }
    gone.push(name);
}

fn one_step(stage: &mut Stage<'_>, memory: &mut Memory, op: &Op, tally: &mut Tally) -> Result<(), String> {
    let (answered, expected) = stage.play(op);
    if answered != expected {
        return Err(format!("the chain answered {}, the model {}: {op:?}", say(answered), say(expected)));
    }
    tally.count(op, answered);
    memory.check(stage)
}

/// Leaves out whatever does not keep the list from failing: halves first, then single steps.
fn shorten(seed: u64, told: &[Op]) -> Vec<Op> {
    /// Replays cost time; a list that is not the shortest will do.
    const MOST_REPLAYS: usize = 300;
    let mut list = told.to_vec();
    let mut replays = 0;
    let mut chunk = list.len().div_ceil(2);
    loop {
        let mut at = 0;
        while at < list.len() && replays < MOST_REPLAYS {
            let mut less = list.clone();
            less.drain(at..(at + chunk).min(list.len()));
            replays += 1;
            if fails(seed, &less) { list = less } else { at += chunk }
        }
        if chunk <= 1 || replays >= MOST_REPLAYS {
            return list;
        }
        chunk = chunk.div_ceil(2);
    }
}

fn fails(seed: u64, list: &[Op]) -> bool {
    let mut chance = Chance::new(seed);
    let cast = Cast::gather(&mut chance);
    let (world, model) = cast.set_stage(&mut chance);
    let mut stage = Stage { cast: &cast, world, model, fees: 0 };
    let (mut memory, mut tally) = (Memory::default(), Tally::default());
    memory.check(&stage).is_err() || list.iter().any(|op| one_step(&mut stage, &mut memory, op, &mut tally).is_err())
}

fn say(done: Done) -> String {
    match done {
        Ok(None) => "done".into(),
        Ok(Some(skipped)) => format!("done, skipping {skipped:#b}"),
        Err(Refusal::Tokens) => "a refusal of the token program".into(),
        Err(Refusal::Ours(code)) => format!("{:?}", SettlementError::from_code(code)),
    }
}

/// What a run has come across, so that it cannot pass by doing nothing.
#[derive(Default)]
struct Tally {
    /// Done and refused, by instruction.
    outcomes: BTreeMap<&'static str, (u64, u64)>,
    /// Batches of vouchers of which some entries were skipped and others were not.
    mixed: u64,
    refusals: BTreeSet<Refusal>,
}

impl Tally {
    fn count(&mut self, op: &Op, done: Done) {
        let Some(instruction) = op.instruction() else { return };
        let outcome = self.outcomes.entry(instruction).or_default();
        match done {
            Ok(skipped) => {
                outcome.0 += 1;
                if let (Op::Settle { entries, .. } | Op::Close { entries, .. }, Some(skipped)) = (op, skipped) {
                    self.mixed += u64::from(skipped != 0 && skipped.count_ones() < entries.len() as u32);
                }
            }
            Err(refusal) => {
                outcome.1 += 1;
                self.refusals.insert(refusal);
            }
        }
    }

    /// Every instruction was carried out often and refused at least once, and so on.
    fn assert_broad(&self) {
        for (instruction, (done, refused)) in &self.outcomes {
            assert!(*done >= 3 && *refused >= 1, "{instruction}: only {done} done, {refused} refused");
        }
        assert_eq!(self.outcomes.len(), INSTRUCTIONS, "{:?}", self.outcomes);
        assert!(self.mixed >= 50, "only {} batches of mixed fates", self.mixed);
        for error in REACHED {
            assert!(self.refusals.contains(&Refusal::Ours(error.code())), "no step was refused with {error:?}");
        }
        assert!(self.refusals.contains(&Refusal::Tokens), "the token program never refused");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (instruction, (done, refused)) in &self.outcomes {
            writeln!(f, "{instruction:>20} {done:>7} done {refused:>7} refused")?;
        }
        write!(f, "{:>20} {:>7}", "mixed batches", self.mixed)
    }
}

/// Instructions that a run plays: all but init_config.
const INSTRUCTIONS: usize = tag::COUNT - 1;

/// Refusals that every run of the ordinary length comes across.
const REACHED: [SettlementError; 17] = [
    SettlementError::WrongOwner,
    SettlementError::Unauthorised,
    SettlementError::AlreadyExists,
    SettlementError::BadTokenAccount,
    SettlementError::BadAmount,
    SettlementError::Overflow,
    SettlementError::FeeTooHigh,
    SettlementError::BadGrace,
    SettlementError::NonceUsed,
    SettlementError::WeakKey,
    SettlementError::BadSignature,
    SettlementError::AboveDeposit,
    SettlementError::WrongParty,
    SettlementError::WrongStatus,
    SettlementError::BadBatch,
    SettlementError::Paused,
    SettlementError::DelayTooLong,
];
