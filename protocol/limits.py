"""Every limit and interval of the wire, in one place.

A peer that wants to know whether something fits looks here; `docs/protocol.md` prints the same numbers.
"""

from typing import Final

# (major, minor). Another major is refused at once; a newer minor may send kinds and fields that are ignored.
PROTOCOL_VERSION: Final = (1, 0)

# Sizes are checked by the sender: a receiver can only hang up, and then the message has vanished.
MAX_INGEST_BYTES: Final = 64 * 1024  # one message between a client and the orchestrator
MAX_NODE_BYTES: Final = 4 * 1024 * 1024  # one message between the orchestrator and a node: holds a chat context
# Where ZeroMQ itself drops the peer. Higher than ours, so that an honest mistake is answered and not cut off.
INGEST_DROP_BYTES: Final = 1024 * 1024
NODE_DROP_BYTES: Final = 16 * 1024 * 1024

MAX_ID_LENGTH: Final = 64  # session ids, names of nodes and orchestrators
MAX_TEXT_LENGTH: Final = 8_000  # characters of one text turn
MAX_PIECE_LENGTH: Final = 1_000  # characters given to TTS at once
MAX_METADATA_ITEMS: Final = 32

MIN_SAMPLE_RATE: Final = 8_000
MAX_SAMPLE_RATE: Final = 48_000
FRAME_MS: Final = 20  # what everybody sends unless told otherwise
MAX_FRAME_MS: Final = 200  # the longest frame that is accepted

# Credit: how far audio may run ahead of what has been taken in. Far below the high-water mark of a socket
# (1000 messages), so that a full socket means a broken peer and never a busy one.
INGEST_AHEAD_MS: Final = 4_000
NODE_AHEAD_MS: Final = 2_000
TTS_AHEAD_MS: Final = 2_000
PLAYOUT_AHEAD_MS: Final = 2_000  # how far the audio sent to a client may be ahead of what it has played

HEARTBEAT_MS: Final = 200  # a node to each orchestrator, answered by it
NODE_TIMEOUT_MS: Final = 700  # a node that was silent for so long is gone
LEASE_MS: Final = 5_000  # a node frees what an orchestrator left behind
CLIENT_PING_MS: Final = 1_000
CLIENT_LOST_MS: Final = 3_000  # an orchestrator that was silent for so long is gone for the client
CLIENT_TIMEOUT_MS: Final = 15_000  # a client that was silent for so long is gone
HANDSHAKE_MS: Final = 3_000  # a peer that never finishes the ZMTP handshake

SEND_HIGH_WATER_MARK: Final = 1_000  # messages that wait for one client: 20 s of frames
NODE_HIGH_WATER_MARK: Final = 10_000  # and for one node, which may have 200 streams: a second of their frames
DRAIN_MESSAGES: Final = 128  # messages taken from one socket before the others get their turn
LINGER_MS: Final = 500  # for a polite goodbye; 0 otherwise, never infinite
MAX_SOCKETS: Final = 16_384

MAX_BAD_MESSAGES: Final = 100  # after so many malformed messages a peer is no longer answered
