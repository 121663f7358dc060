//! Conversations as lists: what went in, what came out.

use shared::id::BatchNumber;
use shared::verdict::Position;

use super::*;
use crate::cluster::Answer;

const EPOCH: Epoch = Epoch(0xe);

struct Talk {
    session: Session,
    next: u64,
}

fn talk(version: Version) -> Talk {
    let mut talk = silent();
    let out = talk.say(Packet::Connect(connect(version)));
    assert!(matches!(out[..], [Action::Accept(_)]), "{out:?}");
    talk
}

fn silent() -> Talk {
    Talk {
        session: Session::new(AgentId::parse("gw1").unwrap()),
        next: 0,
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id_empty: false,
        clean_start: true,
        has_will: false,
        keep_alive_seconds: 30,
        streams: Vec::new(),
    }
}

fn publish(packet_id: u16, topic: &str) -> Publish {
    let payload = Bytes::from_static(b"x");
    let topic = topic.to_owned();
    Publish {
        packet_id: Some(packet_id),
        exactly_once: false,
        retain: false,
        topic,
        payload,
    }
}

fn place(number: u64) -> Place {
    let number = BatchNumber(number);
    Place {
        epoch: EPOCH,
        lane: Lane::Live,
        from: number,
        to: number,
    }
}

fn position(last: u64) -> Position {
    Position {
        last: BatchNumber(last),
        ..Position::default()
    }
}

fn applied() -> Answer {
    Answer::Applied(Applied::sample(1, None))
}

impl Talk {
    fn say(&mut self, packet: Packet) -> Vec<Action> {
        let mut out = Vec::new();
        self.session.packet(packet, true, &mut out);
        out
    }

    /// A publish to the own live topic whose content checks out as batch `number`.
    fn batch(&mut self, packet_id: u16, number: u64) -> Vec<Action> {
        let mut out = self.say(Packet::Publish(publish(packet_id, "tributary/v1/gw1/live")));
        let payload = Bytes::from_static(b"x");
        let sequence = self.next;
        self.next += 1;
        let kind = Kind::Batch(Lane::Live);
        assert_eq!(
            out,
            [Action::Check {
                sequence,
                kind,
                payload: payload.clone()
            }]
        );
        out.clear();
        let checked = Checked {
            place: Some(place(number)),
            payload: Payload::Batch(payload),
            decoded_bytes: 0,
        };
        self.session.checked(sequence, Ok(checked), &mut out);
        out
    }

    fn answer(&mut self, sequence: u64, answer: Answer) -> Vec<Action> {
        let mut out = Vec::new();
        self.session.answered(sequence, answer, &mut out);
        out
    }
}

/// Acknowledgements as (packet id, reason code or 0xff for "applied"), and whether it closed.
fn told(out: &[Action]) -> (Vec<(u16, u8)>, Option<Close>) {
    let acks = out.iter().filter_map(|action| match action {
        Action::Acknowledge {
            packet_id,
            reply: Reply::Applied(_),
        } => Some((*packet_id, 0xff)),
        Action::Acknowledge {
            packet_id,
            reply: Reply::Refused(verdict),
        } => Some((*packet_id, verdict.reason_code())),
        _ => None,
    });
    let close = out.iter().find_map(|action| match action {
        Action::Close(close) => Some(*close),
        _ => None,
    });
    (acks.collect(), close)
}

#[test]
fn connect_tells_which_streams_to_answer() {
    let mut talk = silent();
    let streams = vec![
        "000000000000000e/live".to_owned(),
        "000000000000000e/names".to_owned(),
    ];
    let out = talk.say(Packet::Connect(Connect {
        streams,
        ..connect(Version::V5)
    }));
    let [Action::Accept(accept)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(accept.streams, [(EPOCH, Lane::Live), (EPOCH, Lane::Names)]);
}

#[test]
fn connects_that_are_refused_say_why() {
    let v5 = || connect(Version::V5);
    let too_many = vec!["000000000000000e/live".to_owned(); STREAMS_MAX + 1];
    for (connect, ready, wanted) in [
        (v5(), false, ConnectRefusal::NotReady),
        (
            Connect {
                has_will: true,
                ..v5()
            },
            true,
            ConnectRefusal::Will,
        ),
        (
            Connect {
                streams: vec!["x".to_owned()],
                ..v5()
            },
            true,
            ConnectRefusal::Streams,
        ),
        (
            Connect {
                streams: too_many,
                ..v5()
            },
            true,
            ConnectRefusal::Streams,
        ),
        (
            Connect {
                client_id_empty: true,
                clean_start: false,
                ..connect(Version::V3_1_1)
            },
            true,
            ConnectRefusal::ClientId,
        ),
    ] {
        let mut talk = silent();
        let mut out = Vec::new();
        talk.session
            .packet(Packet::Connect(connect), ready, &mut out);
        assert_eq!(out[0], Action::RefuseConnect(wanted));
        assert!(matches!(out[1], Action::Report(_)));
        assert!(talk.session.is_closed());
        assert_eq!(talk.say(Packet::Connect(v5())), [], "closed is closed");
    }
    let mut talk = silent();
    let out = talk.say(Packet::Publish(publish(1, "tributary/v1/gw1/live")));
    assert!(matches!(told(&out).1, Some(Close::Protocol(_))));
}

#[test]
fn acks_leave_in_the_order_of_the_publishes() {
    let mut talk = talk(Version::V5);
    for number in 1..=3 {
        let out = talk.batch(u16::try_from(number).unwrap() + 10, number);
        assert!(matches!(out[..], [Action::Submit { .. }]), "{out:?}");
    }
    assert_eq!(talk.answer(1, applied()), []);
    assert_eq!(told(&talk.answer(2, applied())).0, []);
    let out = talk.answer(0, applied());
    assert_eq!(told(&out), (vec![(11, 0xff), (12, 0xff), (13, 0xff)], None));
    assert_eq!(
        out.iter()
            .filter(|action| **action == Action::Release)
            .count(),
        3
    );
    assert_eq!(talk.session.pending(), 0);
}

#[test]
fn a_refusal_waits_for_its_turn_too() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    let out = talk.say(Packet::Publish(publish(2, "tributary/v1/gw2/live")));
    assert_eq!(told(&out), (vec![], None));
    assert!(
        matches!(out[..], [Action::Report(_)]),
        "counted at once: {out:?}"
    );
    talk.say(Packet::Publish(publish(3, "some/topic")));
    let out = talk.answer(0, applied());
    assert_eq!(told(&out), (vec![(1, 0xff), (2, 0x87), (3, 0x90)], None));
}

#[test]
fn a_lane_stays_shut_until_the_refused_number_comes_again() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 5);
    talk.batch(2, 6);
    assert_eq!(
        told(&talk.answer(0, Answer::Gap(position(2)))).0,
        [(1, 0x83)]
    );
    assert_eq!(
        told(&talk.answer(1, Answer::Gap(position(2)))).0,
        [(2, 0x83)]
    );
    let refused = Verdict::Gap(position(2));
    let out = talk.batch(3, 7);
    assert!(
        out.contains(&Action::Acknowledge {
            packet_id: 3,
            reply: Reply::Refused(refused)
        }),
        "{out:?}"
    );
    for number in 3..=6 {
        let out = talk.batch(4 + u16::try_from(number).unwrap(), number);
        assert!(
            matches!(out[..], [Action::Submit { .. }]),
            "{number}: {out:?}"
        );
    }
}

#[test]
fn invalid_content_shuts_the_lane_behind_it() {
    let mut talk = talk(Version::V5);
    talk.say(Packet::Publish(publish(1, "tributary/v1/gw1/live")));
    talk.next += 1;
    let mut out = Vec::new();
    let invalid = Invalid {
        place: Some(place(1)),
        reason: "damaged".to_owned(),
    };
    talk.session.checked(0, Err(invalid), &mut out);
    assert_eq!(told(&out), (vec![(1, 0x99)], None));
    assert_eq!(told(&talk.batch(2, 2)).0, [(2, 0x97)]);
    assert!(matches!(talk.batch(3, 1)[..], [Action::Submit { .. }]));
}

#[test]
fn a_cluster_without_room_puts_the_batch_off_and_all_behind_it() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    let busy = Answer::Busy { retry_ms: 1_000 };
    assert_eq!(told(&talk.answer(0, busy)), (vec![(1, 0x97)], None));
    assert_eq!(told(&talk.batch(2, 2)).0, [(2, 0x97)]);
    assert!(matches!(talk.batch(3, 1)[..], [Action::Submit { .. }]));
}

#[test]
fn what_is_over_the_quota_is_refused_with_all_behind_it_until_it_comes_again() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    talk.batch(2, 2);
    let mut out = Vec::new();
    talk.session.over_quota(1, 2_500, &mut out);
    assert_eq!(told(&out), (vec![], None), "in its turn");
    assert_eq!(told(&talk.batch(3, 3)).0, []);
    let out = talk.answer(0, applied());
    assert_eq!(told(&out), (vec![(1, 0xff), (2, 0x97), (3, 0x97)], None));
    let refused = Verdict::Quota { retry_ms: 2_500 };
    assert!(out.contains(&Action::Acknowledge {
        packet_id: 2,
        reply: Reply::Refused(refused)
    }));
    assert!(matches!(talk.batch(4, 2)[..], [Action::Submit { .. }]));
    assert_eq!(told(&talk.answer(3, applied())).0, [(4, 0xff)]);
}

#[test]
fn mqtt_3_1_1_hears_yes_or_nothing() {
    for answer in [
        Answer::Gap(position(0)),
        Answer::Names(position(0)),
        Answer::Busy { retry_ms: 1_000 },
        Answer::Unknown,
    ] {
        let mut talk = talk(Version::V3_1_1);
        talk.batch(1, 1);
        talk.batch(2, 2);
        assert_eq!(told(&talk.answer(0, applied())).0, [(1, 0xff)]);
        let (acks, close) = told(&talk.answer(1, answer));
        assert_eq!(acks, []);
        assert!(close.is_some(), "{answer:?}");
        assert_eq!(talk.answer(1, applied()), [], "closed is closed");
    }
    let mut talk = talk(Version::V3_1_1);
    let out = talk.say(Packet::Publish(publish(2, "tributary/v1/gw2/live")));
    assert_eq!(
        told(&out),
        (vec![], Some(Close::Refused(Verdict::ForeignTopic)))
    );
}

#[test]
fn an_unknown_fate_closes_and_acks_nothing_behind_it() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    talk.batch(2, 2);
    assert_eq!(talk.answer(1, applied()), []);
    assert_eq!(
        told(&talk.answer(0, Answer::Unknown)),
        (vec![], Some(Close::Unknown))
    );
}

#[test]
fn what_no_puback_can_refuse_closes() {
    let own = |id| publish(id, "tributary/v1/gw1/live");
    let cases: Vec<(Publish, Close)> = vec![
        (
            Publish {
                exactly_once: true,
                ..own(1)
            },
            Close::QosTwo,
        ),
        (
            Publish {
                retain: true,
                ..own(1)
            },
            Close::Retain,
        ),
        (
            Publish {
                packet_id: None,
                ..own(1)
            },
            Close::BatchWithoutAck,
        ),
    ];
    for (publish, wanted) in cases {
        let mut talk = talk(Version::V5);
        assert_eq!(told(&talk.say(Packet::Publish(publish))).1, Some(wanted));
    }
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    let out = talk.say(Packet::Publish(own(1)));
    assert!(matches!(told(&out).1, Some(Close::Protocol(_))), "{out:?}");
}

#[test]
fn lines_may_come_without_wanting_an_ack() {
    let mut talk = talk(Version::V5);
    let publish = Publish {
        packet_id: None,
        ..publish(1, "tributary/v1/gw1/line")
    };
    let out = talk.say(Packet::Publish(publish));
    assert!(
        matches!(
            out[..],
            [Action::Check {
                sequence: 0,
                kind: Kind::Lines,
                ..
            }]
        ),
        "{out:?}"
    );
    let mut out = Vec::new();
    let payload = Payload::Lines(Bytes::from_static(b"x"));
    talk.session.checked(
        0,
        Ok(Checked {
            place: None,
            payload,
            decoded_bytes: 0,
        }),
        &mut out,
    );
    assert!(matches!(out[..], [Action::Submit { .. }]));
    assert_eq!(talk.answer(0, applied()), [Action::Release]);
}

#[test]
fn subscriptions_are_answered_and_refused() {
    let mut talk = talk(Version::V5);
    let out = talk.say(Packet::Subscribe {
        packet_id: 9,
        filters: 2,
    });
    assert_eq!(
        out[0],
        Action::RefuseSubscribe {
            packet_id: 9,
            filters: 2
        }
    );
    let out = talk.say(Packet::Unsubscribe {
        packet_id: 10,
        filters: 1,
    });
    assert_eq!(
        out,
        [Action::AnswerUnsubscribe {
            packet_id: 10,
            filters: 1
        }]
    );
    assert_eq!(talk.say(Packet::Ping), [Action::Pong]);
    assert_eq!(
        talk.say(Packet::Disconnect),
        [Action::Close(Close::Finished)]
    );
}

#[test]
fn every_batch_of_a_stream_that_was_stored_says_have() {
    let mut talk = talk(Version::V5);
    talk.batch(1, 1);
    let answer = Applied::sample(7, Some(position(3)));
    let out = talk.answer(0, Answer::Applied(answer));
    assert_eq!(
        out,
        [
            Action::Acknowledge {
                packet_id: 1,
                reply: Reply::Applied(answer)
            },
            Action::Release
        ]
    );
}
