//! One file for each command.

pub(crate) mod add;
pub(crate) mod handoff;
pub(crate) mod init;
pub(crate) mod serve;
pub(crate) mod settle;
pub(crate) mod status;
pub(crate) mod update;
pub(crate) mod withdraw;
