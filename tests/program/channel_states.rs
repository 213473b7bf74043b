//! The table of a channel's life against the program: every event in every state. And its drawing in the spec.

use std::fmt::Write;

use settlement_chain::{Address, InstructionError, Signer, TransactionError};
use settlement_interface::{
    accounts::{Channel, status},
    errors::SettlementError,
    instructions::OpenEntry,
    transitions::{Claim, Event, Outcome, State, step},
};

use crate::{
    blessed::assert_blessed,
    instructions as ix,
    ledger::{AgentParty, MIN_GRACE_S, NodeParty, START, Voucher, World, open_entry, skipped},
};

const DEPOSIT: u64 = 100;
const SETTLED: u64 = 30;

/// One channel and what is needed to do anything to it.
struct Scene {
    world: World,
    agent: AgentParty,
    node: NodeParty,
    entry: OpenEntry,
    channel: Address,
}

#[test]
// r[verify channel.grace.deadline]
// r[verify settlement.batch.skip]
// r[verify settlement.batch.fail]
fn the_program_does_in_every_state_what_the_table_says() {
    for state in State::ALL {
        for event in Event::ALL {
            let mut scene = Scene::in_state(state);
            assert_eq!(scene.state(), state, "the scene is not in the state it was made for");
            let before = scene.world.data(&scene.channel);
            let (next, outcome) = step(state, event);
            let found = scene.apply(event);
            assert_eq!(found, outcome, "{} in {}", event.name(), state.name());
            assert_eq!(scene.state(), next, "{} in {}", event.name(), state.name());
            if outcome != Outcome::Done {
                assert_eq!(scene.world.data(&scene.channel), before, "{} in {}", event.name(), state.name());
            }
        }
    }
}

#[test]
fn the_drawing_in_the_spec_is_the_table() {
    assert_blessed("protocol-spec/diagrams/settlement.md", &drawing());
}

impl Scene {
    fn in_state(state: State) -> Self {
        let mut world = World::new();
        let agent = world.agent(1_000);
        let node = world.node(None);
        let (entry, channel) = open_entry(&agent, &node, 0, DEPOSIT);
        let mut scene = Self { world, agent, node, entry, channel };
        let way: &[Event] = match state {
            State::None => &[],
            State::Open => &[Event::Open],
            State::Closing => &[Event::Open, Event::RequestClose],
            State::Overdue => &[Event::Open, Event::RequestClose, Event::Deadline],
            State::Closed => &[Event::Open, Event::Close(Claim::NotHigher)],
            State::Reclaimed => &[Event::Open, Event::Close(Claim::NotHigher), Event::Reclaim],
        };
        for event in way {
            assert_eq!(scene.apply(*event), Outcome::Done);
            if *event == Event::Open {
                let voucher = Voucher::of(&scene.agent, &channel, SETTLED);
                scene.world.run(&[ix::settle_batch(&scene.node, &[(channel, voucher)])], &[]).unwrap();
            }
        }
        scene
    }

    /// Where the channel is, by what lies on chain.
    fn state(&self) -> State {
        let data = self.world.data(&self.channel);
        if data.is_empty() {
            return if self.world.read_agent(&self.agent).next_nonce == 0 { State::None } else { State::Reclaimed };
        }
        let channel = Channel::decode(&data).unwrap();
        match channel.status {
            status::OPEN => State::Open,
            status::CLOSING if self.world.now() < channel.deadline => State::Closing,
            status::CLOSING => State::Overdue,
            status::CLOSED => State::Closed,
            other => panic!("status {other}"),
        }
    }

    fn apply(&mut self, event: Event) -> Outcome {
        let (world, agent, channel) = (&self.world, &self.agent, self.channel);
        let owner = self.node.owner.insecure_clone();
        let instruction = match event {
            Event::Open => ix::open_batch(world, agent, &[(self.entry.clone(), self.node.account, channel)]),
            Event::TopUp => ix::top_up(agent, &channel, 1),
            Event::Settle(claim) => ix::settle_batch(&self.node, &[(channel, self.voucher(claim))]),
            Event::Close(claim) => ix::close_batch(&owner.pubkey(), &self.node, &[(channel, self.voucher(claim))]),
            Event::RequestClose => ix::request_close(agent, &channel),
            Event::Finalize => ix::finalize_batch(&[channel]),
            Event::Reclaim => ix::reclaim_batch(world, agent, &[channel]),
            Event::Deadline => {
                let deadline = Channel::decode(&world.data(&channel)).map_or(0, |channel| channel.deadline);
                self.world.set_time(if deadline == 0 { START + i64::from(MIN_GRACE_S) } else { deadline });
                return Outcome::Done;
            }
        };
        let signer = self.agent.owner.insecure_clone();
        match self.world.run(&[instruction], &[&signer, &owner]) {
            Ok(done) if matches!(event, Event::Open | Event::TopUp | Event::RequestClose) => {
                assert!(done.return_data.data.is_empty());
                Outcome::Done
            }
            Ok(done) => match skipped(&done) {
                0 => Outcome::Done,
                1 => Outcome::Skipped,
                other => panic!("a bitmap of {other:#b} for one entry"),
            },
            Err(TransactionError::InstructionError(0, InstructionError::Custom(code))) => {
                Outcome::Refused(SettlementError::from_code(code).unwrap())
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn voucher(&self, claim: Claim) -> Voucher {
        let (agent, channel) = (&self.agent, &self.channel);
        match claim {
            Claim::Higher => Voucher::of(agent, channel, SETTLED + 10),
            Claim::NotHigher => Voucher { cumulative: 0, ..Voucher::none() },
            Claim::Expired => Voucher::signed(&agent.signer, channel, SETTLED + 10, self.world.now()),
            Claim::AboveDeposit => Voucher::of(agent, channel, DEPOSIT + 1),
            Claim::Forged => Voucher { cumulative: SETTLED + 10, ..Voucher::none() },
        }
    }
}

fn drawing() -> String {
    let mut text = String::from(HEAD);
    text.push_str("| event |");
    for state in State::ALL {
        write!(text, " {} |", state.name()).unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    text.push('\n');
    for event in Event::ALL {
        write!(text, "| {} |", event.name()).unwrap();
        for state in State::ALL {
            write!(text, " {} |", cell(state, event)).unwrap();
        }
        text.push('\n');
    }
    text.push_str("\n```dot\ndigraph channel {\n");
    for state in State::ALL {
        for next in State::ALL {
            let events: Vec<_> = Event::ALL
                .iter()
                .filter(|event| next != state && step(state, **event).0 == next)
                .map(|event| event.name())
                .collect();
            if !events.is_empty() {
                let label = events.join("\\n");
                writeln!(text, "  {} -> {} [label=\"{label}\"]", state.name(), next.name()).unwrap();
            }
        }
    }
    text.push_str("}\n```\n");
    text
}

fn cell(state: State, event: Event) -> String {
    let (next, outcome) = step(state, event);
    match outcome {
        Outcome::Done if next != state => format!("to **{}**", next.name()),
        Outcome::Done if event == Event::Deadline => "nothing".into(),
        Outcome::Done => "done".into(),
        Outcome::Skipped => "skipped".into(),
        Outcome::Refused(error) => format!("{error:?}"),
    }
}

const HEAD: &str = "\
# The channel on chain

Drawn from `settlement/interface/src/transitions.rs`; the test `the_drawing_in_the_spec_is_the_table` keeps the two
equal (`ARO_UPDATE=1` redraws), and `the_program_does_in_every_state_what_the_table_says` walks every cell against the
program. A word in **bold** is the next state, `skipped` marks the entry in the batch's bitmap and lets the others go
on, and an error's name fails the whole transaction. `settle` works while open, and while closing until the deadline;
`overdue` is what a closing channel is called from its deadline on.

";
