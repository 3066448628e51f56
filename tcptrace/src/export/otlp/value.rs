//! Fields as attributes: names by OpenTelemetry's semantic conventions where they have one, and otherwise
//! our own under `tcptrace.`.
//!
//! <https://opentelemetry.io/docs/specs/semconv/registry/attributes/>

use std::{collections::BTreeMap, net::IpAddr};

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value,
};

use crate::{
    event::{Network, State},
    sink::{
        fields::{Field, Fields},
        text::{push_hex, push_network},
    },
};

/// The attributes of one record.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) list: Vec<KeyValue>,
    role: Role,
}

/// Which end the local one is.
#[derive(Clone, Copy, Debug, Default)]
enum Role {
    #[default]
    Unknown,
    Client,
    Server,
}

/// An attribute.
pub(super) fn attribute(name: impl Into<String>, value: Value) -> KeyValue {
    KeyValue {
        key: name.into(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

/// A text.
pub(super) fn string(text: impl Into<String>) -> Value {
    Value::StringValue(text.into())
}

/// A value.
pub(super) const fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn int(number: u64) -> Value {
    Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The name that the conventions have for a field.
fn convention(name: &'static str) -> Option<&'static str> {
    Some(match name {
        "family" => "network.type",
        "laddr" => "network.local.address",
        "lport" => "network.local.port",
        "raddr" => "network.peer.address",
        "rport" => "network.peer.port",
        "pid" => "process.pid",
        "ppid" => "process.parent_pid",
        "uid" => "process.user.id",
        "exe" => "process.executable.path",
        "args" => "process.command_line",
        "container" => "container.id",
        "pod_uid" => "k8s.pod.uid",
        "errno" => "error.type",
        _ => return None,
    })
}

/// The conventions' names of states.
fn state_name(state: &str) -> String {
    match state {
        "CLOSE" => "closed".to_owned(),
        "SYN_RECV" => "syn_received".to_owned(),
        "FIN_WAIT1" => "fin_wait_1".to_owned(),
        "FIN_WAIT2" => "fin_wait_2".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

impl Attributes {
    fn push(&mut self, name: &'static str, value: Value) {
        if let Some(role_name) = self.by_role(name) {
            self.list.push(attribute(role_name, value.clone()));
        }
        match convention(name) {
            Some(known) => self.list.push(attribute(known, value)),
            None => self.list.push(attribute(format!("tcptrace.{name}"), value)),
        }
    }

    /// The name of an end by what it does, where that is known.
    const fn by_role(&self, name: &'static str) -> Option<&'static str> {
        let (is_address, is_local) = match name.as_bytes() {
            b"laddr" => (true, true),
            b"lport" => (false, true),
            b"raddr" => (true, false),
            b"rport" => (false, false),
            _ => return None,
        };
        let is_client = match self.role {
            Role::Unknown => return None,
            Role::Client => is_local,
            Role::Server => !is_local,
        };
        Some(match (is_client, is_address) {
            (true, true) => "client.address",
            (true, false) => "client.port",
            (false, true) => "server.address",
            (false, false) => "server.port",
        })
    }
}

impl Fields for Attributes {
    fn number(&mut self, field: Field, number: u64) {
        self.push(field.name, int(number));
    }

    fn large(&mut self, field: Field, number: u64) {
        self.push(field.name, string(number.to_string()));
    }

    fn hex(&mut self, field: Field, number: u64) {
        let mut text = Vec::new();
        push_hex(&mut text, number);
        let text = String::from_utf8_lossy(&text).into_owned();
        self.push(field.name, string(text));
    }

    fn text(&mut self, field: Field, text: &str) {
        match field.name {
            "role" => {
                self.role = match text {
                    "client" => Role::Client,
                    "server" | "listener" => Role::Server,
                    _ => Role::Unknown,
                };
                self.list
                    .push(attribute("network.transport", string("tcp")));
            }
            "state" => {
                let name = state_name(text);
                self.list
                    .push(attribute("network.connection.state", string(name)));
                return;
            }
            _ => {}
        }
        self.push(field.name, string(text));
    }

    fn outside(&mut self, field: Field, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if field.name == "exe"
            && let Some(name) = text.rsplit('/').next()
        {
            self.list
                .push(attribute("process.executable.name", string(name)));
        }
        self.push(field.name, string(text));
    }

    fn address(&mut self, field: Field, address: IpAddr) {
        self.push(field.name, string(address.to_string()));
    }

    fn yes(&mut self, field: Field) {
        self.push(field.name, Value::BoolValue(true));
    }

    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>) {
        let values = networks
            .map(|(network, number)| {
                let mut prefix = Vec::new();
                push_network(&mut prefix, network);
                let prefix = String::from_utf8_lossy(&prefix);
                attribute(prefix.into_owned(), int(number.into()))
            })
            .collect();
        self.push(field.name, Value::KvlistValue(KeyValueList { values }));
    }

    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>) {
        let values = states
            .map(|(state, us)| attribute(state.name(), int(us)))
            .collect();
        self.push(field.name, Value::KvlistValue(KeyValueList { values }));
    }

    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>) {
        let values = words.map(|word| any(string(word))).collect();
        self.push(field.name, Value::ArrayValue(ArrayValue { values }));
    }

    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>) {
        let values = table
            .iter()
            .map(|(name, text)| attribute(*name, string(text.clone())))
            .collect();
        self.push(field.name, Value::KvlistValue(KeyValueList { values }));
    }

    fn change(&mut self, old: State, new: State) {
        self.push("old", string(old.name()));
        self.push("new", string(new.name()));
        let name = state_name(new.name());
        self.list
            .push(attribute("network.connection.state", string(name)));
    }
}
