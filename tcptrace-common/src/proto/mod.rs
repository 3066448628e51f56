//! Protocols between the kernel programs that meet at one socket, as pure functions: the programs run
//! them on a word of the socket's record, the tests here on all their interleavings.

pub mod accept;
