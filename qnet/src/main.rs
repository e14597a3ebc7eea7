//! The user's node; the library has what it does.
#![forbid(unsafe_code)]

use qnet_allocator as _;

fn main() -> std::process::ExitCode {
    qnet::main(std::env::args_os().collect())
}
