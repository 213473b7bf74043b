//! What the settlement operator must survive, one file for each family of faults.
//!
//! Every test ends with the same audit ([`scene::Scene::audit`]): no acknowledged voucher is lost, nothing is paid
//! twice, fees stay within the bound that the test states, watermarks never fall.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../settlement/operator/test/fixture/postgres.rs"]
mod postgres;
mod scene;
mod story;

mod audit;
mod backups;
mod crashes;
mod disks;
mod duplicates;
mod expiry;
mod floods;
mod forks;
mod hiding;
mod lending;
mod lies;
mod rivals;
mod servers;
mod timeouts;
mod towers;
