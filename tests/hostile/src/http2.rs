//! What a decoy sends over HTTP/2, once TLS is off. The bridge line names the decoy, yet nobody vouches for it.

use std::time::{Duration, Instant};

use qnet_proto::chrome::CHROME_156;
use qnet_proto::http2::{Keeper, Output, PageLoad};
use qnet_proto::knock::Field;
use qnet_wire::name::ServerName;

use crate::pieces;

/// Outputs a load may give between two pieces of a decoy's data: its burst of requests, and acknowledgements.
const MOST_OUTPUTS: usize = 10_000;

fn name() -> ServerName {
    "www.example.com".parse().expect("a name")
}

/// The client's page load, from the preface on; time passes as the load asks for it.
pub fn page_load(data: &[u8]) {
    let mut now = Instant::now();
    let mut load = PageLoad::new(&CHROME_156, &name(), "/", Field::Padding, [7; 32]);
    let mut knocked = false;
    let mut take = |load: &mut PageLoad, now: Instant| {
        let mut count = 0;
        while let Some(output) = load.poll(now) {
            count += 1;
            assert!(count < MOST_OUTPUTS, "a load that never falls quiet");
            if let Output::Knock(content) = output {
                assert!(!knocked && content.ends_with(&[0; 8]), "one knock, with its room");
                knocked = true;
            }
        }
    };
    take(&mut load, now);
    for piece in pieces(data) {
        if load.on_data(piece, now).is_err() {
            assert!(load.failure().is_some());
            break;
        }
        take(&mut load, now);
        // Past Chrome's pauses, which are below a second; never to the load's own limit at once, as all would end there.
        let later = now + Duration::from_secs(1);
        now = load.deadline().map_or(later, |deadline| deadline.clamp(now, later));
        take(&mut load, now);
    }
    load.give_up();
    take(&mut load, now);
    let _ = (load.requests(), load.answer_ended(), load.gone_away());
}

/// The bridge's side after HANDOVER.
pub fn keeper(data: &[u8]) {
    let mut keeper = Keeper::new(7, &name(), "/");
    let (mut out, mut given) = (Vec::new(), 0);
    keeper.request(&mut out);
    let mut asked = out.len();
    for (number, piece) in pieces(data).enumerate() {
        let before = out.len();
        match number % 4 {
            1 => keeper.withhold(&mut out),
            3 => keeper.release(&mut out),
            _ => {}
        }
        asked += out.len() - before;
        given += piece.len();
        if keeper.on_data(piece, &mut out).is_err() {
            break;
        }
        // An empty frame of nine bytes draws at most an answer of nine, DATA of ten at most two updates of 13.
        assert!(out.len() <= asked + 4 * given, "answers grow with what asks for them");
    }
    assert!(keeper.outstanding() <= keeper.requests());
}
