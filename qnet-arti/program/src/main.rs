//! Arti, with the features that its tests here need.
#![forbid(unsafe_code)]

fn main() {
    arti::main();
}
