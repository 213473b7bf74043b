//! `aro completions`: what a shell needs to complete this command.

use std::io::{Write, stdout};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Arguments;

#[derive(Args)]
pub(crate) struct Completions {
    /// Shell to complete for; its manual says where the script belongs
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn run(&self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "aro", &mut script);
        // A reader that went away needs no answer.
        let _ = stdout().write_all(&script);
    }
}
