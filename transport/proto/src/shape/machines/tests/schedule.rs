//! The winding schedule.

use super::*;

fn side(p: u8, q: u8, coupling: u16) -> String {
    format!(
        "p = {p}\nq = {q}\ngap_us = 10000\ncoupling_per_mille = {coupling}\narcs = [[100, 100], [900, 900]]\ntrain = 2\npadded_per_mille = 1000\nempty_turns = 2\n"
    )
}

fn table(p: u8, q: u8, coupling: u16) -> &'static WindingTable {
    let text =
        format!("quiet_ms = 1000\n[client]\n{}[bridge]\n{}", side(p, q, coupling), side(p, q, coupling));
    Box::leak(Box::new(toml::from_str(&text).unwrap()))
}

/// Slots of an end that has always something to send: when each began.
fn slots(table: &'static WindingTable, count: usize) -> Vec<Duration> {
    let start = some_instant();
    let mut end = End::new(Box::new(Winding::new(table, Role::Client, [1; 32])), start);
    end.queue(BULK * 1_000, start);
    let (mut now, mut began) = (start, Vec::new());
    while began.len() < count {
        if !end.drive(now).is_empty() {
            began.push(now - start);
        }
        now = end.machine.deadline().unwrap();
    }
    began
}

#[test]
fn the_schedule_repeats_after_q_slots_and_takes_q_times_the_mean() {
    for (p, q, coupling) in [(1, 1, 0), (2, 5, 0), (5, 13, 700), (34, 55, 900)] {
        let table = table(p, q, coupling);
        table.check().unwrap();
        let q = usize::from(q);
        let began = slots(table, 3 * q + 1);
        let gaps: Vec<Duration> = began.windows(2).map(|two| two[1] - two[0]).collect();
        for (one, other) in gaps.iter().zip(&gaps[q..]) {
            assert_eq!(one, other, "{p}/{q}");
        }
        let turn: Duration = gaps[..q].iter().sum();
        let wanted = Duration::from_millis(10) * u32::try_from(q).unwrap();
        assert!(turn.abs_diff(wanted) < Duration::from_micros(1), "{p}/{q}: {turn:?}");
        let differ = gaps[..q].iter().max() != gaps[..q].iter().min();
        assert_eq!(differ, coupling > 0);
    }
}

#[test]
fn a_slot_takes_a_train_of_records_of_its_arc() {
    let start = some_instant();
    let mut end = End::new(Box::new(Winding::new(table(1, 4, 0), Role::Client, [2; 32])), start);
    end.queue(20_000, start);
    let mut now = start;
    let mut lengths = Vec::new();
    for _ in 0..8 {
        let sent = end.drive(now);
        assert_eq!(sent.len(), 2);
        for one in sent {
            let Sent::Data { record, .. } = one else { panic!("there is data") };
            lengths.push(record);
        }
        now = end.machine.deadline().unwrap();
    }
    // Two states of four are in each arc, one after the other.
    assert_eq!(lengths.iter().filter(|length| **length == 100).count(), 8);
    let changes = lengths.windows(2).filter(|two| two[0] != two[1]).count();
    assert!((3..=4).contains(&changes), "{lengths:?}");
}

#[test]
fn a_late_slot_is_counted_and_no_gap_becomes_negative() {
    let start = some_instant();
    let mut winding = Winding::new(table(1, 2, 0), Role::Client, [3; 32]);
    winding.on(Event::Queued, start);
    assert_eq!(winding.take_late(), 0);
    let mut now = start;
    for (late_ms, counted) in [(0, 0), (1, 0), (3, 1), (30, 1), (0, 0)] {
        now = winding.deadline().unwrap() + Duration::from_millis(late_ms);
        while winding.padding(now).is_some() {}
        assert_eq!(winding.take_late(), counted);
        assert!(winding.deadline().unwrap() > now);
    }
    assert!(now > start);
}

#[test]
fn a_slot_reached_a_little_late_does_not_move_the_next() {
    let start = some_instant();
    let mut winding = Winding::new(table(1, 2, 0), Role::Client, [3; 32]);
    winding.on(Event::Queued, start);
    for slot in 1..=100 {
        let due = start + Duration::from_millis(10) * slot;
        assert_eq!(winding.deadline(), Some(due));
        winding.on(Event::Queued, due + Duration::from_millis(1));
    }
}

#[test]
fn empty_turns_end_it() {
    let start = some_instant();
    let mut end = End::new(Box::new(Winding::new(table(1, 3, 0), Role::Client, [4; 32])), start);
    end.queue(10, start);
    let mut now = start;
    while let Some(deadline) = end.machine.deadline() {
        end.drive(now);
        now = deadline.max(now);
        end.drive(now);
    }
    // Two turns of three slots, each of them padded, and the first with data.
    assert_eq!(end.padding().0, 6);
    assert!(now - start <= Duration::from_millis(90), "{:?}", now - start);
}

#[test]
fn figures_out_of_bounds_are_refused() {
    for (p, q, coupling) in [(2, 4, 0), (0, 5, 0), (6, 5, 0), (1, 65, 0), (1, 4, 901)] {
        assert!(table(p, q, coupling).check().is_err(), "{p}/{q} {coupling}");
    }
}
