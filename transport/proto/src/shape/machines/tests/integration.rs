//! Maybenot's rules for who uses its framework, each with a machine made for it.

use ::maybenot::action::Action;
use ::maybenot::dist::{Dist, DistType};
use ::maybenot::event::Event as On;
use ::maybenot::state::{State, Trans};
use ::maybenot::{Machine as States, Timer};

use super::super::maybenot::Load;
use super::*;

const MS: Duration = Duration::from_millis(1);

fn after(ms: u32) -> Dist {
    let micros = f64::from(ms) * 1_000.0;
    Dist::new(DistType::Uniform { low: micros, high: micros }, 0.0, 0.0)
}

fn state(transitions: &[(On, usize)], action: Option<Action>) -> State {
    let mut map = enum_map::enum_map! { _ => Vec::new() };
    for (event, to) in transitions {
        map[*event] = vec![Trans(*to, 1.0)];
    }
    let mut state = State::new(map);
    state.action = action;
    state
}

fn pad(ms: u32, bypass: bool, replace: bool) -> Option<Action> {
    Some(Action::SendPadding { bypass, replace, timeout: after(ms), limit: None })
}

fn block(ms: u32, duration_ms: u32, bypass: bool, replace: bool) -> Option<Action> {
    Some(Action::BlockOutgoing {
        bypass,
        replace,
        timeout: after(ms),
        duration: after(duration_ms),
        limit: None,
    })
}

fn of(states: Vec<State>) -> States {
    States::new(u64::MAX, 0.0, u64::MAX, 0.0, states).unwrap()
}

/// A machine that does this once something was heard.
fn once(action: Option<Action>) -> States {
    of(vec![state(&[(On::NormalRecv, 1)], None), state(&[], action)])
}

fn running(machines: Vec<States>) -> (Load, Instant) {
    let now = some_instant();
    let mut load = Load::of(machines.into(), [7; 32], now).unwrap();
    load.heard(now);
    load.advance(now);
    (load, now)
}

/// Padding that is due at `at`.
fn padding(load: &mut Load, at: Instant) -> usize {
    let mut count = 0;
    load.advance(at);
    while load.take_padding() {
        count += 1;
        load.advance(at);
    }
    count
}

#[test]
fn padding_goes_when_its_timer_ends() {
    let (mut load, now) = running(vec![once(pad(5, false, false))]);
    assert_eq!(load.next(), Some(now + MS * 5));
    assert_eq!(padding(&mut load, now + MS * 4), 0);
    assert_eq!(padding(&mut load, now + MS * 5), 1);
    assert_eq!(padding(&mut load, now + MS * 50), 0);
    assert_eq!(load.next(), None);
}

#[test]
fn a_new_action_takes_the_place_of_the_old_one() {
    let again =
        of(vec![state(&[(On::NormalRecv, 1)], None), state(&[(On::NormalRecv, 1)], pad(5, false, false))]);
    let (mut load, now) = running(vec![again]);
    load.heard(now + MS * 3);
    assert_eq!(padding(&mut load, now + MS * 7), 0);
    assert_eq!(padding(&mut load, now + MS * 8), 1);
    assert_eq!(padding(&mut load, now + MS * 60), 0);
}

#[test]
fn a_cancelled_timer_does_nothing() {
    let cancels = of(vec![
        state(&[(On::NormalRecv, 1)], None),
        state(&[(On::NormalSent, 2)], pad(5, false, false)),
        state(&[], Some(Action::Cancel { timer: Timer::All })),
    ]);
    let (mut load, now) = running(vec![cancels]);
    load.found_waiting(1, now + MS);
    assert_eq!(padding(&mut load, now + MS * 60), 0);
}

#[test]
fn a_blocking_holds_data_until_it_ends() {
    let (mut load, now) = running(vec![once(block(0, 30, false, false))]);
    load.found_waiting(1, now);
    assert_eq!(load.held_until(now), Some(now + MS * 30));
    load.advance(now + MS * 30);
    assert_eq!(load.held_until(now + MS * 30), None);
}

#[test]
fn nothing_is_held_for_longer_than_the_bound() {
    let (mut load, now) = running(vec![once(block(0, 60_000, true, true))]);
    load.found_waiting(1, now);
    assert_eq!(load.held_until(now), Some(now + MOST_HELD));
    let at = now + MOST_HELD;
    assert_eq!(load.held_until(at), None);
    load.advance(at);
    load.data_went(1_000, at);
    load.found_waiting(1, at);
    assert_eq!(load.held_until(at), Some(at + MOST_HELD), "one record, not all that come after it");
}

/// What padding does while data is held, by the table in maybenot's documentation: (blocking may be bypassed, padding bypasses, is replaced,
/// data waits) and (padding sent at once, data let go, padding when the blocking ends).
#[test]
fn padding_under_a_blocking_follows_the_table() {
    let table = [
        ((false, false, false, false), (0, false, 1)),
        ((false, true, false, false), (0, false, 1)),
        ((false, false, true, false), (0, false, 1)),
        ((false, false, true, true), (0, false, 0)),
        ((false, true, true, false), (0, false, 1)),
        ((false, true, true, true), (0, false, 0)),
        ((true, false, false, false), (0, false, 1)),
        ((true, true, false, false), (1, false, 0)),
        ((true, true, false, true), (1, false, 0)),
        ((true, false, true, false), (0, false, 1)),
        ((true, false, true, true), (0, false, 0)),
        ((true, true, true, false), (1, false, 0)),
        ((true, true, true, true), (0, true, 0)),
    ];
    for ((open, bypass, replace, waits), expected) in table {
        let (mut load, now) = running(vec![once(block(0, 40, open, false)), once(pad(5, bypass, replace))]);
        if waits {
            load.found_waiting(1, now);
        }
        let at = now + MS * 5;
        let sent = padding(&mut load, at);
        let let_go = waits && load.held_until(at).is_none();
        let later = padding(&mut load, now + MS * 40);
        assert_eq!((sent, let_go, later), expected, "{open} {bypass} {replace} {waits}");
    }
}

#[test]
fn a_slot_lets_one_record_go() {
    let (mut load, now) = running(vec![once(block(0, 60_000, true, true)), once(pad(5, true, true))]);
    load.found_waiting(3, now);
    let at = now + MS * 5;
    load.advance(at);
    assert_eq!(load.held_until(at), None);
    load.data_went(1_000, at);
    assert!(load.held_until(at).is_some());
}

#[test]
fn a_slot_that_is_due_is_open_before_anybody_looked() {
    let (mut load, now) = running(vec![once(block(0, 60_000, true, true)), once(pad(5, true, true))]);
    load.found_waiting(1, now);
    assert!(load.held_until(now + MS * 4).is_some());
    assert_eq!(load.held_until(now + MS * 5), None);
}

#[test]
fn the_longer_blocking_counts_unless_it_is_replaced() {
    for (replace, end) in [(false, 30), (true, 15)] {
        let (mut load, now) =
            running(vec![once(block(0, 30, false, false)), once(block(5, 10, true, replace))]);
        load.advance(now + MS * 5);
        load.found_waiting(1, now + MS * 5);
        assert_eq!(load.held_until(now + MS * 5), Some(now + MS * end), "replaced: {replace}");
    }
}

#[test]
fn what_waited_when_a_blocking_ends_goes_though_another_begins() {
    let again = of(vec![
        state(&[(On::NormalRecv, 1)], None),
        state(&[(On::BlockingEnd, 1)], block(0, 20, false, true)),
    ]);
    let (mut load, now) = running(vec![again]);
    load.found_waiting(2, now);
    let at = now + MS * 20;
    load.advance(at);
    for left in [2_000, 1_000] {
        assert_eq!(load.held_until(at), None);
        load.cut(left);
        load.data_went(1_000, at);
    }
    load.found_waiting(1, at);
    assert!(load.held_until(at).is_some(), "but not what came after");
}

#[test]
fn the_framework_is_told_of_timers_and_blockings() {
    let told = of(vec![
        state(&[(On::NormalRecv, 1)], None),
        state(
            &[(On::TimerBegin, 2)],
            Some(Action::UpdateTimer { replace: true, duration: after(10), limit: None }),
        ),
        state(&[(On::TimerEnd, 3)], None),
        state(&[(On::BlockingBegin, 4)], block(0, 10, false, false)),
        state(&[(On::BlockingEnd, 5)], None),
        state(&[(On::PaddingSent, 6)], pad(10, false, false)),
        state(&[(On::TunnelSent, 7)], None),
        state(&[(On::PaddingSent, 7)], pad(10, false, false)),
    ]);
    let (mut load, now) = running(vec![told]);
    let mut sent = Vec::new();
    for step in 1..=60 {
        if padding(&mut load, now + MS * step) > 0 {
            sent.push(step);
        }
    }
    assert_eq!(sent, [30, 40, 50, 60]);
}

#[test]
fn an_internal_timer_takes_the_longer_duration_unless_it_is_replaced() {
    for (replace, at) in [(false, 20), (true, 8)] {
        let timer = |ms, replace| Some(Action::UpdateTimer { replace, duration: after(ms), limit: None });
        let machine = of(vec![
            state(&[(On::NormalRecv, 1)], None),
            state(&[(On::NormalRecv, 2), (On::TimerEnd, 3)], timer(20, true)),
            state(&[(On::TimerEnd, 3)], timer(5, replace)),
            state(&[], pad(0, false, false)),
        ]);
        let (mut load, now) = running(vec![machine]);
        load.heard(now + MS * 3);
        assert_eq!(padding(&mut load, now + MS * (at - 1)), 0);
        assert_eq!(padding(&mut load, now + MS * at), 1, "replaced: {replace}");
    }
}

#[test]
fn a_circle_of_timers_of_nothing_is_cut_short() {
    let circle =
        of(vec![state(&[(On::NormalRecv, 1)], None), state(&[(On::PaddingSent, 1)], pad(0, false, false))]);
    let (mut load, now) = running(vec![circle]);
    load.advance(now);
    assert!(load.next().unwrap() > now);
}

#[test]
fn slots_keep_their_times_though_the_driver_is_a_little_late() {
    let slots =
        of(vec![state(&[(On::NormalRecv, 1)], None), state(&[(On::TunnelSent, 1)], pad(5, true, true))]);
    let (mut load, now) = running(vec![slots]);
    for slot in 1..=100 {
        let due = now + MS * 5 * slot;
        assert_eq!(load.next(), Some(due));
        assert_eq!(padding(&mut load, due + MS), 1);
    }
}

#[test]
fn a_slot_that_nothing_takes_is_lost_and_the_schedule_goes_on() {
    let slots =
        of(vec![state(&[(On::NormalRecv, 1)], None), state(&[(On::TunnelSent, 1)], pad(5, true, true))]);
    let (mut load, now) = running(vec![slots, once(block(0, 60_000, true, true))]);
    load.found_waiting(1, now);
    load.advance(now + MS * 5);
    assert_eq!(load.held_until(now + MS * 5), None);
    assert_eq!(padding(&mut load, now + MS * 10), 0);
    assert_eq!(padding(&mut load, now + MS * 20), 1);
}
