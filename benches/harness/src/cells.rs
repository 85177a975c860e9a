//! What is measured: the cells of a run, each loaded in rounds over all peers.

use crate::{load::Kind, mcp::Era, peers::Buffers};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// For `--only`, and for the targets.
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    pub era: Era,
    pub in_flight: u32,
    pub bytes: u32,
}

impl Cell {
    const fn call(
        name: &'static str,
        title: &'static str,
        era: Era,
        in_flight: u32,
        bytes: u32,
    ) -> Self {
        Self {
            name,
            title,
            kind: Kind::Call,
            era,
            in_flight,
            bytes,
        }
    }

    /// The buffers that nginx and haproxy get for it.
    pub(crate) fn buffers(&self) -> Buffers {
        if self.bytes > 4096 {
            Buffers::Large
        } else {
            Buffers::Default
        }
    }
}

/// All of them, in the order of the tables.
pub(crate) const CELLS: [Cell; 7] = [
    Cell::call(
        "call",
        "Calls, legacy, 256 B, 16 in flight",
        Era::Legacy,
        16,
        256,
    ),
    Cell::call(
        "call1",
        "Calls, legacy, 256 B, 1 in flight",
        Era::Legacy,
        1,
        256,
    ),
    Cell::call(
        "call64",
        "Calls, legacy, 256 B, 64 in flight",
        Era::Legacy,
        64,
        256,
    ),
    Cell::call(
        "modern",
        "Calls, 2026-07-28, 256 B, 16 in flight",
        Era::Modern,
        16,
        256,
    ),
    Cell::call(
        "16k",
        "Calls, legacy, 16 KiB, 16 in flight (nginx, haproxy with buffers of 64 KiB)",
        Era::Legacy,
        16,
        16 * 1024,
    ),
    Cell {
        name: "stream",
        title: "Streams: 200 at a time, 50 events each, 50 ms apart",
        kind: Kind::Stream,
        era: Era::Legacy,
        in_flight: 200,
        bytes: 0,
    },
    Cell {
        name: "idle",
        title: "Idle: 1,000 sessions, each with an open GET stream",
        kind: Kind::Idle,
        era: Era::Legacy,
        in_flight: 1000,
        bytes: 0,
    },
];
