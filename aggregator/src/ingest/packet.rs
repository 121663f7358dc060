//! Between the MQTT library's packets and the session's: the differences of 3.1.1 and 5 end here.

use bytes::Bytes;
use mqtt_protocol_core::mqtt::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, GenericPacket, MaximumPacketSize, MaximumQos, Property, Qos,
    ReasonString, ReceiveMaximum, RetainAvailable, ServerKeepAlive, SharedSubscriptionAvailable,
    SubscriptionIdentifierAvailable, TopicAliasMaximum, UserProperty,
    WildcardSubscriptionAvailable, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode,
    SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};
use shared::id::{Epoch, Lane, TimeNs};
use shared::limits::PACKET_BYTES_MAX;
use shared::verdict::{Position, STREAM_PROPERTY, TIME_PROPERTY, Verdict, format_stream_position};

use super::metrics::explain;
use super::session::{
    Accept, Close, Connect, ConnectRefusal, Packet, Publish, RECEIVE_MAXIMUM, Reason, Reply,
    Version,
};

/// A silent client is noticed after this even if it asked for no keep alive.
const KEEP_ALIVE_SECONDS_MAX: u16 = 600;

/// Of one packet.
const PACKET_BYTES: u32 = 1 << 20;
const _: () = assert!(PACKET_BYTES as usize == PACKET_BYTES_MAX);
/// Topics that a client may give a number: its lanes and its lines, and room.
const TOPIC_ALIAS_MAX: u16 = 8;

type Wire = GenericPacket<u16>;
type Built = Result<Wire, MqttError>;

/// What CONNACK tells besides "yes".
pub(super) struct Welcome {
    pub(super) positions: Vec<(Epoch, Lane, Position)>,
    pub(super) incarnation: u64,
    pub(super) now: TimeNs,
    /// Used if the client brought no id.
    pub(super) client_id: String,
}

/// Lets a payload go on without a copy.
struct Payload(ArcPayload);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

pub(super) fn read(wire: Wire) -> Packet {
    match wire {
        Wire::V3_1_1Connect(p) => Packet::Connect(Connect {
            version: Version::V3_1_1,
            client_id_empty: p.client_id().is_empty(),
            clean_start: p.clean_session(),
            has_will: p.will_flag(),
            keep_alive_seconds: p.keep_alive(),
            streams: Vec::new(),
        }),
        Wire::V5_0Connect(p) => Packet::Connect(Connect {
            version: Version::V5,
            client_id_empty: p.client_id().is_empty(),
            clean_start: p.clean_start(),
            has_will: p.will_flag(),
            keep_alive_seconds: p.keep_alive(),
            streams: streams(p.props()),
        }),
        Wire::V3_1_1Publish(p) => Packet::Publish(Publish {
            packet_id: p.packet_id(),
            exactly_once: p.qos() == Qos::ExactlyOnce,
            retain: p.retain(),
            topic: p.topic_name().to_owned(),
            payload: Bytes::from_owner(Payload(p.payload().clone())),
        }),
        Wire::V5_0Publish(p) => Packet::Publish(Publish {
            packet_id: p.packet_id(),
            exactly_once: p.qos() == Qos::ExactlyOnce,
            retain: p.retain(),
            topic: p.topic_name().to_owned(),
            payload: Bytes::from_owner(Payload(p.payload().clone())),
        }),
        Wire::V3_1_1Subscribe(p) => Packet::Subscribe {
            packet_id: p.packet_id(),
            filters: p.entries().len(),
        },
        Wire::V5_0Subscribe(p) => Packet::Subscribe {
            packet_id: p.packet_id(),
            filters: p.entries().len(),
        },
        Wire::V3_1_1Unsubscribe(p) => Packet::Unsubscribe {
            packet_id: p.packet_id(),
            filters: p.entries().len(),
        },
        Wire::V5_0Unsubscribe(p) => Packet::Unsubscribe {
            packet_id: p.packet_id(),
            filters: p.entries().len(),
        },
        Wire::V3_1_1Pingreq(_) | Wire::V5_0Pingreq(_) => Packet::Ping,
        Wire::V3_1_1Disconnect(_) | Wire::V5_0Disconnect(_) => Packet::Disconnect,
        _ => Packet::Unexpected,
    }
}

fn streams(properties: &[Property]) -> Vec<String> {
    properties
        .iter()
        .filter_map(|property| match property {
            Property::UserProperty(pair) if pair.key() == STREAM_PROPERTY => {
                Some(pair.val().to_owned())
            }
            _ => None,
        })
        .collect()
}

pub(super) fn accept(version: Version, accept: &Accept, welcome: &Welcome) -> Built {
    if version == Version::V3_1_1 {
        let connack = v3_1_1::Connack::builder().session_present(false);
        return Ok(connack
            .return_code(ConnectReturnCode::Accepted)
            .build()?
            .into());
    }
    let mut properties: Vec<Property> = vec![
        ReceiveMaximum::new(RECEIVE_MAXIMUM)?.into(),
        MaximumPacketSize::new(PACKET_BYTES)?.into(),
        TopicAliasMaximum::new(TOPIC_ALIAS_MAX)?.into(),
        MaximumQos::new(1)?.into(),
        RetainAvailable::new(0)?.into(),
        WildcardSubscriptionAvailable::new(0)?.into(),
        SubscriptionIdentifierAvailable::new(0)?.into(),
        SharedSubscriptionAvailable::new(0)?.into(),
        user("incarnation", &format!("{:016x}", welcome.incarnation))?,
        user(TIME_PROPERTY, &welcome.now.0.to_string())?,
    ];
    if accept.assign_client_id {
        properties.push(AssignedClientIdentifier::new(&welcome.client_id)?.into());
    }
    if !(1..=KEEP_ALIVE_SECONDS_MAX).contains(&accept.keep_alive_seconds) {
        properties.push(ServerKeepAlive::new(KEEP_ALIVE_SECONDS_MAX)?.into());
    }
    for (epoch, lane, position) in &welcome.positions {
        let text = format_stream_position(*epoch, *lane, *position);
        properties.push(user(STREAM_PROPERTY, &text)?);
    }
    let connack = v5_0::Connack::builder().session_present(false);
    Ok(connack
        .reason_code(ConnectReasonCode::Success)
        .props(properties)
        .build()?
        .into())
}

pub(super) fn refuse_connect(version: Version, refusal: ConnectRefusal) -> Built {
    if version == Version::V3_1_1 {
        let code = match refusal {
            ConnectRefusal::NotReady => ConnectReturnCode::ServerUnavailable,
            ConnectRefusal::ClientId => ConnectReturnCode::IdentifierRejected,
            ConnectRefusal::Will | ConnectRefusal::Streams => ConnectReturnCode::NotAuthorized,
        };
        let connack = v3_1_1::Connack::builder().session_present(false);
        return Ok(connack.return_code(code).build()?.into());
    }
    let code = match refusal {
        ConnectRefusal::NotReady => ConnectReasonCode::ServerUnavailable,
        ConnectRefusal::Will => ConnectReasonCode::ImplementationSpecificError,
        ConnectRefusal::Streams => ConnectReasonCode::ProtocolError,
        ConnectRefusal::ClientId => ConnectReasonCode::ClientIdentifierNotValid,
    };
    let (_, meaning) = explain(Reason::Connect(refusal));
    let connack = v5_0::Connack::builder()
        .session_present(false)
        .reason_code(code);
    Ok(connack
        .props(vec![ReasonString::new(meaning)?.into()])
        .build()?
        .into())
}

pub(super) fn acknowledge(version: Version, packet_id: u16, reply: Reply) -> Built {
    let verdict = match reply {
        Reply::Refused(verdict) => verdict,
        Reply::Applied(applied) => applied.repeated().map_or(Verdict::Ok, Verdict::Have),
    };
    if version == Version::V3_1_1 {
        // The session closes instead of acknowledging a refusal; be sure of it here.
        if !matches!(reply, Reply::Applied(_)) {
            return Err(MqttError::ProtocolError);
        }
        return Ok(v3_1_1::Puback::builder()
            .packet_id(packet_id)
            .build()?
            .into());
    }
    let puback = v5_0::Puback::builder().packet_id(packet_id);
    if verdict == Verdict::Ok {
        return Ok(puback.build()?.into());
    }
    let code = PubackReasonCode::try_from(verdict.reason_code())
        .map_err(|_| MqttError::UnspecifiedError)?;
    let properties: Result<Vec<Property>, MqttError> = verdict
        .properties()
        .iter()
        .map(|(key, value)| user(key, value))
        .collect();
    Ok(puback.reason_code(code).props(properties?).build()?.into())
}

pub(super) fn refuse_subscribe(version: Version, packet_id: u16, filters: usize) -> Built {
    if version == Version::V3_1_1 {
        let suback = v3_1_1::Suback::builder().packet_id(packet_id);
        return Ok(suback
            .return_codes(vec![SubackReturnCode::Failure; filters])
            .build()?
            .into());
    }
    let suback = v5_0::Suback::builder().packet_id(packet_id);
    let codes = vec![SubackReasonCode::ImplementationSpecificError; filters];
    Ok(suback.reason_codes(codes).build()?.into())
}

pub(super) fn answer_unsubscribe(version: Version, packet_id: u16, filters: usize) -> Built {
    if version == Version::V3_1_1 {
        return Ok(v3_1_1::Unsuback::builder()
            .packet_id(packet_id)
            .build()?
            .into());
    }
    let unsuback = v5_0::Unsuback::builder().packet_id(packet_id);
    let codes = vec![UnsubackReasonCode::NoSubscriptionExisted; filters];
    Ok(unsuback.reason_codes(codes).build()?.into())
}

#[expect(clippy::unnecessary_wraps, reason = "as its siblings, which may fail")]
pub(super) fn pong(version: Version) -> Built {
    Ok(match version {
        Version::V3_1_1 => v3_1_1::Pingresp::new().into(),
        Version::V5 => v5_0::Pingresp::new().into(),
    })
}

/// The DISCONNECT that says why; 3.1.1 has none for a server.
pub(super) fn disconnect(code: DisconnectReasonCode, meaning: &str) -> Built {
    let disconnect = v5_0::Disconnect::builder().reason_code(code);
    Ok(disconnect
        .props(vec![ReasonString::new(meaning)?.into()])
        .build()?
        .into())
}

/// The code and text with which a session is closed; `None` if the peer said good-bye itself.
pub(super) fn close_code(close: Close) -> Option<(DisconnectReasonCode, &'static str)> {
    let code = match close {
        Close::Finished => return None,
        Close::Protocol(_) => DisconnectReasonCode::ProtocolError,
        Close::QosTwo | Close::BatchWithoutAck => DisconnectReasonCode::QosNotSupported,
        Close::Retain => DisconnectReasonCode::RetainNotSupported,
        Close::Unknown => DisconnectReasonCode::ServerBusy,
        Close::Refused(_) => DisconnectReasonCode::UnspecifiedError,
    };
    Some((code, explain(Reason::Closed(close)).1))
}

fn user(key: &str, value: &str) -> Result<Property, MqttError> {
    Ok(UserProperty::new(key, value)?.into())
}
