//! The bridge operator's tool; the library has what it does.
#![forbid(unsafe_code)]

use qnet_allocator as _;

fn main() -> std::process::ExitCode {
    qnet_bridge::main(std::env::args_os())
}
