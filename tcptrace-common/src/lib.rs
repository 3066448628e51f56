//! What both sides of tcptrace see.
#![no_std]
