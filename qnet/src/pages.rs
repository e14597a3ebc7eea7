//! Shell completions and man pages, from the command line's own description.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

pub(crate) fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "qnet", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// `qnet.1` and a page for each verb.
pub(crate) fn man(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}
