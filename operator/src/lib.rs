//! fairway-operator.
