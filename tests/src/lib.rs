//! Harness and models shared by the system tests.
