//! For tests, fuzzing and the making of test vectors only.
