//! COSE_Sign1.
