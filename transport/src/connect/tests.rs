//! Tests of `connect`.
