//! What is done with hostile bytes, parser by parser.
#![forbid(unsafe_code)]
