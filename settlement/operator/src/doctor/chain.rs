//! What the chain can tell.

use std::time::Instant;

use settlement_chain::{Address, ChainClient, Hash, MAX_V1_TRANSACTION, Program, reads};

use super::Finding;
use crate::submit::probe_v1;

/// Whose chain is examined.
#[derive(Clone, Copy, Debug)]
pub struct ChainSubject {
    /// The settlement program.
    pub program: Program,
    /// The operator's hot key.
    pub authority: Address,
    /// This machine's time in unix seconds.
    pub now: i64,
    /// Lamports that transactions cost in a day, as far as the history tells.
    pub lamports_per_day: Option<u64>,
}

/// Examines servers, program, accounts and purse. `servers` are named for people, in the order of the configuration.
pub async fn examine_chain(servers: &[(String, &dyn ChainClient)], subject: &ChainSubject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut genesis = None;
    let mut heights: Vec<(usize, u64)> = Vec::new();
    for (index, (name, chain)) in servers.iter().enumerate() {
        let check = format!("server {index}");
        let asked = Instant::now();
        match (chain.genesis_hash().await, chain.latest_blockhash().await) {
            (Ok(hash), Ok(latest)) => {
                if *genesis.get_or_insert(hash) == hash {
                    let took = asked.elapsed().as_millis();
                    let genesis = Hash::new_from_array(hash);
                    findings.push(Finding::ok(&check, format!("{name} answers in {took} ms; genesis {genesis}")));
                    findings.push(format(*chain, index, subject).await);
                    heights.push((index, latest.last_valid_block_height));
                } else {
                    let text = format!("{name} serves another chain than the first server");
                    findings.push(Finding::fail(&check, text, "take it out of rpc_url"));
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                let next = "check its address and its quota; add another server to rpc_url";
                findings.push(Finding::fail(&check, format!("{name}: {error}"), next));
            }
        }
    }
    findings.extend(lags(&heights));
    let Some((_, chain)) = heights.first().and_then(|(index, _)| servers.get(*index)) else { return findings };
    findings.extend(accounts(*chain, subject).await);
    findings.push(clock(*chain, subject).await);
    findings
}

/// Whether a server's cluster takes version 1 transactions as long as they may be.
async fn format(chain: &dyn ChainClient, index: usize, subject: &ChainSubject) -> Finding {
    let check = format!("format {index}");
    match probe_v1(chain, &subject.authority).await {
        Ok(None) => Finding::ok(&check, format!("it takes version 1 transactions of {MAX_V1_TRANSACTION} bytes")),
        Ok(Some(error)) => {
            let text = format!("it takes no version 1 transactions of {MAX_V1_TRANSACTION} bytes: {error}");
            let next = "closes go 8 at a time, not 36; leave format at auto until the cluster takes them";
            Finding::warn(&check, text, next)
        }
        Err(error) => {
            let text = format!("it does not say whether it takes version 1 transactions: {error}");
            Finding::warn(&check, text, "use a server that simulates; without one limits are estimates")
        }
    }
}

/// How far each is behind the one that is farthest on: last valid heights, by index.
fn lags(heights: &[(usize, u64)]) -> Vec<Finding> {
    let highest = heights.iter().map(|(_, height)| *height).max().unwrap_or_default();
    let finding = |(index, height): &(usize, u64)| {
        let (check, lag) = (format!("lag {index}"), highest.saturating_sub(*height));
        let text = format!("server {index} is {lag} blocks behind the others");
        if lag > MAX_LAG_BLOCKS {
            Finding::warn(&check, text, "use one that keeps up")
        } else {
            Finding::ok(&check, text)
        }
    };
    // One alone is behind nobody.
    if heights.len() < 2 { Vec::new() } else { heights.iter().map(finding).collect() }
}

async fn accounts(chain: &dyn ChainClient, subject: &ChainSubject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ChainSubject { program, authority, .. } = subject;
    match reads::config(chain, program).await {
        Ok(config) if config.paused != 0 => {
            let text = "the program is paused: nobody can deposit or open; settling goes on";
            findings.push(Finding::warn("program", text, "ask the program's admin"));
        }
        Ok(config) => {
            let text = format!("{} is set up for the mint {}", program.id, Address::from(config.mint));
            findings.push(Finding::ok("program", text));
        }
        Err(error) => {
            let next = "check program_id and rpc_url in config.json";
            findings.push(Finding::fail("program", error.to_string(), next));
            return findings;
        }
    }
    let (account, _) = program.operator(authority);
    match reads::operator(chain, program, authority).await {
        Ok(Some(operator)) => {
            findings.push(Finding::ok("operator account", format!("{account}, {} basis points", operator.fee_bps)));
            let payout = Address::from(operator.payout);
            findings.push(match reads::token_account(chain, &payout).await {
                Ok(Some(_)) => Finding::ok("payout", format!("fees go to {payout}")),
                Ok(None) => Finding::warn("payout", format!("{payout} is gone"), "create the token account again"),
                Err(error) => Finding::warn("payout", error.to_string(), "look at the account"),
            });
        }
        Ok(None) => {
            let text = format!("{authority} has no operator account");
            findings.push(Finding::fail("operator account", text, "run `aro-settle init` on this chain"));
        }
        Err(error) => findings.push(Finding::fail("operator account", error.to_string(), "look at the account")),
    }
    findings.push(match reads::lamports(chain, authority).await {
        Ok(lamports) => purse(lamports, subject),
        Err(error) => Finding::warn("purse", error.to_string(), "try again"),
    });
    findings.push(match reads::nodes_of_operator(chain, program, &account).await {
        Ok(nodes) if nodes.is_empty() => {
            Finding::warn("nodes", "no node names this operator", "tell nodes the operator account")
        }
        Ok(nodes) => Finding::ok("nodes", format!("{} nodes name this operator", nodes.len())),
        Err(error) => {
            let next = "without searches nothing is swept for nodes that handed nothing over; use another server";
            Finding::warn("nodes", format!("the server does not answer searches: {error}"), next)
        }
    });
    findings
}

fn purse(lamports: u64, subject: &ChainSubject) -> Finding {
    let fund = format!("send SOL to {}", subject.authority);
    if lamports < LEAST_LAMPORTS {
        return Finding::fail("purse", format!("the hot key holds {lamports} lamports: nothing can be sent"), &fund);
    }
    let Some(per_day) = subject.lamports_per_day.filter(|per_day| *per_day > 0) else {
        return Finding::ok("purse", format!("the hot key holds {lamports} lamports; nothing was spent lately"));
    };
    let days = lamports.checked_div(per_day).unwrap_or(u64::MAX);
    let text = format!("the hot key holds {lamports} lamports: {days} days at {per_day} a day");
    if days < LEAST_DAYS { Finding::warn("purse", text, &fund) } else { Finding::ok("purse", text) }
}

async fn clock(chain: &dyn ChainClient, subject: &ChainSubject) -> Finding {
    match chain.clock().await {
        Ok(there) => {
            let skew = subject.now.abs_diff(there);
            let text = format!("this machine and the chain are {skew} s apart");
            if skew > MAX_SKEW_S {
                Finding::warn("clock", text, "set this machine's clock; logs and reports are wrong until then")
            } else {
                Finding::ok("clock", text)
            }
        }
        Err(error) => Finding::warn("clock", error.to_string(), "try again"),
    }
}

/// A server so far behind has trouble: some 12 seconds.
const MAX_LAG_BLOCKS: u64 = 30;
/// Twenty transactions.
const LEAST_LAMPORTS: u64 = 100_000;
/// A purse that lasts less is to be filled.
const LEAST_DAYS: u64 = 14;
/// Seconds that clocks may be apart: the chain's own wavers by several.
const MAX_SKEW_S: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn server_that_lags_is_told_beside_one_that_does_not() {
        assert_eq!(lags(&[(0, 500)]), []);
        let levels: Vec<Level> = lags(&[(0, 500), (2, 469), (3, 470)]).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warn, Level::Ok]);
    }

    #[test]
    fn purse_is_judged_by_what_is_spent() {
        let subject = |lamports_per_day| ChainSubject {
            program: Program::local(),
            authority: Address::new_from_array([1; 32]),
            now: 0,
            lamports_per_day,
        };
        for (lamports, per_day, level) in [
            (99_999, None, Level::Fail),
            (100_000, None, Level::Ok),
            (100_000, Some(0), Level::Ok),
            (13_999_999, Some(1_000_000), Level::Warn),
            (14_000_000, Some(1_000_000), Level::Ok),
        ] {
            assert_eq!(purse(lamports, &subject(per_day)).level, level, "{lamports} at {per_day:?}");
        }
    }
}
