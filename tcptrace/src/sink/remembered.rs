//! What was written of a connection a moment ago: most of a line is the same from record to record.

use crate::event::Connection;

/// Connections remembered. On a busy host this covers those that are in the middle of opening or
/// closing, and those of one turn of the agent.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 11;

/// The text of the last connections, each in the slot its id leads to.
#[derive(Debug)]
pub(super) struct Remembered {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    text: Vec<u8>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS],
        }
    }
}

impl Remembered {
    /// Appends the text of this connection; false where it is not remembered, or anything it says
    /// has changed.
    pub(super) fn recall(&self, connection: &Connection, out: &mut Vec<u8>) -> bool {
        let slot = self.slots.get(slot_of(connection.id()));
        let Some(slot) = slot.filter(|slot| {
            slot.connection
                .is_some_and(|remembered| remembered.is_described_as(connection))
        }) else {
            return false;
        };
        out.extend_from_slice(&slot.text);
        true
    }

    /// Remembers the text of this connection.
    pub(super) fn keep(&mut self, connection: &Connection, text: &[u8]) {
        if let Some(slot) = self.slots.get_mut(slot_of(connection.id())) {
            slot.text.clear();
            slot.text.extend_from_slice(text);
            slot.connection = Some(*connection);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.connection = None;
        }
    }
}

/// Ids are counted up, per CPU in steps of some 4,000: the multiplication spreads both.
const fn slot_of(id: u64) -> usize {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SLOT_BITS)) as usize
}
