//! The user's node; the library has what it does.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    qnet::main(std::env::args_os().collect())
}
