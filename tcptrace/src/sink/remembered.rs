//! What was written of a connection a moment ago: most of a line is the same from record to record.

use crate::event::Connection;

/// Connections remembered. On a busy host this covers those that are in the middle of opening or
/// closing.
const SLOTS: usize = 256;

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
    /// Appends the text of this connection; `write` makes it where it is not remembered, or where
    /// anything it says has changed.
    pub(super) fn push(
        &mut self,
        connection: &Connection,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(slot) = self.slots.get_mut(slot_of(connection.id())) else {
            write(out);
            return;
        };
        if slot
            .connection
            .is_none_or(|remembered| !remembered.is_described_as(connection))
        {
            slot.text.clear();
            write(&mut slot.text);
            slot.connection = Some(*connection);
        }
        out.extend_from_slice(&slot.text);
    }

    /// Whether the text of this connection is remembered.
    pub(super) fn knows(&self, connection: &Connection) -> bool {
        self.slots
            .get(slot_of(connection.id()))
            .and_then(|slot| slot.connection)
            .is_some_and(|remembered| remembered.is_described_as(connection))
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
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}
