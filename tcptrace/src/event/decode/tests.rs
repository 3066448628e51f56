use tcptrace_common::{
    record::{
        CloseRecord, FLAG_DEDUCED, Owner, RESET_EITHER, RESET_RECEIVED, ROLE_CLIENT, ROLE_SERVER,
        SOURCE_ACCEPT, SOURCE_LISTENER, Step,
    },
    tcp,
};
use zerocopy::IntoBytes as _;

use super::{
    super::{Close, ClosedBy, OwnerSource, Reason},
    *,
};

const LISTENER: u32 = 10;
const ACCEPTOR: u32 = 11;

/// A server's connection of which all steps but those before `untold` are reported at once.
fn deferred(untold: u8, steps: &[(u64, u8)], accept_ns: u64) -> PathRecord {
    let mut record = PathRecord::default();
    for (place, (at_ns, state)) in record.path.iter_mut().zip(steps) {
        *place = Step::new(*at_ns, *state);
    }
    let (last_ns, last) = steps[steps.len() - 1];
    let (_, before) = steps[steps.len() - 2];
    record.head = Record {
        kind: KIND_STEPS,
        mono_ns: last_ns,
        old: before,
        new: last,
        role: ROLE_SERVER,
        source: SOURCE_ACCEPT,
        ..Record::default()
    };
    record.head.owner.tgid = ACCEPTOR;
    record.path_len = u8::try_from(steps.len()).unwrap();
    record.untold = untold;
    record.accept_ns = accept_ns;
    record.accepted = 1;
    record.backlog = [3, 128];
    record.has_opener = 1;
    record.opener = Owner {
        tgid: LISTENER,
        ..Owner::NONE
    };
    record.opener_source = SOURCE_LISTENER;
    record
}

/// What is reported: the state entered or `accept`, the owner, and how that is known.
fn reported(record: &PathRecord) -> Vec<(&'static str, Option<u32>, OwnerSource)> {
    let mut reported = Vec::new();
    Event::decode(record.as_bytes(), |event| {
        let connection = event.connection();
        let what = match event {
            Event::Accept(accept) => {
                assert_eq!(accept.backlog(), Some(3));
                assert_eq!(accept.backlog_max(), Some(128));
                assert_eq!(accept.listener_pid(), Some(LISTENER));
                assert_eq!(accept.wait_us(), Some(5));
                "accept"
            }
            _ => event.states()[1].name(),
        };
        reported.push((what, connection.pid(), connection.owner_source()));
        true
    })
    .unwrap();
    reported
}

#[test]
fn steps_before_the_accept_are_the_listeners() {
    let record = deferred(
        0,
        &[
            (1_000, tcp::SYN_RECV),
            (2_000, tcp::ESTABLISHED),
            (9_000, tcp::CLOSE_WAIT),
        ],
        7_000,
    );
    assert_eq!(
        reported(&record),
        [
            ("SYN_RECV", Some(LISTENER), OwnerSource::Listener),
            ("ESTABLISHED", Some(LISTENER), OwnerSource::Listener),
            ("accept", Some(ACCEPTOR), OwnerSource::Accept),
            ("CLOSE_WAIT", Some(ACCEPTOR), OwnerSource::Accept),
        ]
    );
}

#[test]
fn an_accept_after_the_last_step_comes_after_it() {
    let record = deferred(
        1,
        &[(1_000, tcp::SYN_RECV), (2_000, tcp::ESTABLISHED)],
        7_000,
    );
    assert_eq!(
        reported(&record),
        [
            ("ESTABLISHED", Some(LISTENER), OwnerSource::Listener),
            ("accept", Some(ACCEPTOR), OwnerSource::Accept),
        ]
    );
}

#[test]
fn the_totals_are_the_last_word() {
    let mut record = CloseRecord {
        path: deferred(
            1,
            &[
                (1_000, tcp::SYN_RECV),
                (2_000, tcp::ESTABLISHED),
                (6_000, tcp::CLOSE),
            ],
            7_000,
        ),
        ..CloseRecord::default()
    };
    record.path.head.kind = KIND_CLOSE;
    let mut kinds = Vec::new();
    Event::decode(record.as_bytes(), |event| {
        kinds.push(matches!(event, Event::Close(_)));
        true
    })
    .unwrap();
    assert_eq!(kinds, [false, false, false, true]);
}

/// The end of a client's connection with these steps.
fn close(steps: &[(u64, u8)], change: impl FnOnce(&mut CloseRecord)) -> Close {
    let mut record = CloseRecord {
        path: deferred(0, steps, 0),
        ..CloseRecord::default()
    };
    record.path.head.kind = KIND_CLOSE;
    record.path.head.role = ROLE_CLIENT;
    record.path.accepted = 0;
    change(&mut record);
    let mut close = None;
    Event::decode(record.as_bytes(), |event| {
        if let Event::Close(end) = event {
            close = Some(*end);
        }
        true
    })
    .unwrap();
    close.unwrap()
}

/// A step that was missed left a state without a time.
#[test]
fn a_time_that_is_not_known_is_left_out() {
    let steps = [
        (1_000_000, tcp::SYN_SENT),
        (0, tcp::ESTABLISHED),
        (9_000_000, tcp::FIN_WAIT1),
        (9_500_000, tcp::CLOSE),
    ];
    let missed = close(&steps, |_| ());
    assert_eq!(missed.connect_us(), None);
    let states: Vec<_> = missed
        .states()
        .map(|(state, us)| (state.name(), us))
        .collect();
    assert_eq!(states, [("FIN_WAIT1", 500)]);
    assert_eq!(missed.duration_us(), Some(8_500));

    let timed = close(&steps, |record| {
        record.path.path[1] = Step::new(3_000_000, tcp::ESTABLISHED);
    });
    assert_eq!(timed.connect_us(), Some(2_000));
}

/// Since it was queued, which with Fast Open is before it is established.
#[test]
fn the_accept_queue() {
    let wait_us = |queued_ns, established_ns, accept_ns| {
        let steps = [
            (queued_ns, tcp::SYN_RECV),
            (established_ns, tcp::ESTABLISHED),
            (9_500_000, tcp::CLOSE),
        ];
        close(&steps, |record| record.path.accept_ns = accept_ns).accept_wait_us()
    };
    assert_eq!(wait_us(1_000_000, 2_000_000, 5_000_000), Some(3_000));
    assert_eq!(wait_us(1_000_000, 6_000_000, 5_000_000), Some(4_000));
    assert_eq!(wait_us(0, 6_000_000, 5_000_000), None);
    assert_eq!(wait_us(1_000_000, 0, 5_000_000), None);
    assert_eq!(wait_us(1_000_000, 2_000_000, 0), None);
}

/// After our `close()` data are answered with an RST as if one had come.
#[test]
fn a_reset_after_our_close_may_have_been_data() {
    let ended = |from, reset, shutdown| {
        let steps = [
            (1_000_000, tcp::SYN_SENT),
            (2_000_000, tcp::ESTABLISHED),
            (3_000_000, from),
            (9_000_000, tcp::CLOSE),
        ];
        let end = close(&steps, |record| {
            record.path.head.old = from;
            record.path.head.new = tcp::CLOSE;
            record.path.err = 104;
            record.path.shutdown = shutdown;
            record.counters.reset = reset;
        });
        assert_eq!(end.reason(), Reason::ResetReceived);
        (end.is_reason_inferred(), end.closed_by().unwrap())
    };
    for from in [tcp::FIN_WAIT1, tcp::FIN_WAIT2] {
        assert_eq!(ended(from, RESET_EITHER, 3), (true, ClosedBy::Local));
        assert_eq!(ended(from, 0, 3), (true, ClosedBy::Local));
        assert_eq!(ended(from, RESET_RECEIVED, 3), (false, ClosedBy::Remote));
        // `shutdown()` of our side alone: whatever comes is read.
        assert_eq!(ended(from, RESET_RECEIVED, 2), (false, ClosedBy::Remote));
    }
    assert_eq!(
        ended(tcp::ESTABLISHED, RESET_RECEIVED, 0),
        (false, ClosedBy::Remote)
    );
}

/// Neither why nor when, if nobody saw it end.
#[test]
fn a_deduced_end_claims_nothing() {
    for last in [
        tcp::SYN_SENT,
        tcp::FIN_WAIT2,
        tcp::LAST_ACK,
        tcp::ESTABLISHED,
    ] {
        let steps = [(1_000_000, tcp::SYN_SENT), (2_000_000, last)];
        let deduced = close(&steps, |record| {
            record.path.head.flags |= FLAG_DEDUCED;
            record.path.head.old = last;
            record.path.head.new = tcp::CLOSE;
            record.path.shutdown = 3;
        });
        assert_eq!(deduced.reason(), Reason::Unknown);
        assert_eq!(deduced.duration_us(), None);
        assert!(deduced.states().all(|(_, us)| us == 1_000));
    }
}

/// A child of a listener that was closing began in `CLOSE`.
#[test]
fn a_first_step_comes_from_where_it_was() {
    let mut record = deferred(
        0,
        &[(1_000, tcp::SYN_RECV), (2_000, tcp::ESTABLISHED)],
        7_000,
    );
    record.accepted = 0;
    for (origin, expected) in [
        (tcp::CLOSE, tcp::CLOSE),
        (tcp::LISTEN, tcp::LISTEN),
        (0, tcp::LISTEN),
    ] {
        record.origin = origin;
        let mut first = None;
        Event::decode(record.as_bytes(), |event| {
            first.get_or_insert(event.states()[0].0);
            true
        })
        .unwrap();
        assert_eq!(first, Some(expected));
    }
}
