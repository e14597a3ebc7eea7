//! The pluggable transport that tor or Arti launches; the library has what it does.
#![forbid(unsafe_code)]

use qnet_allocator as _;

fn main() -> std::process::ExitCode {
    qnet_pt::main(std::env::args_os().skip(1))
}
