//! Fairway's operator: controllers, injector, webhook.
//!
//! Every replica serves the webhook; one replica, the leader, runs the
//! controllers. Nothing here holds a signing key or speaks to a device.
//!
//! Reading order: [`inject`] (pure: from a pod to its patch), [`webhook`] (the
//! server around it, and its certificate), [`trust`] (the root's hash, without
//! which nothing is injected), [`controllers`], [`leader`].
//!
//! # What it may do
//!
//! | API group | resource | verbs | why |
//! |---|---|---|---|
//! | fairway.dev | deviceidentities, channelpolicies, enrollmenttickets | get, list, watch | controllers |
//! | fairway.dev | the same with `/status` | patch | conditions |
//! | fairway.dev | enrollmenttickets | delete | removal after use or expiry |
//! | events.k8s.io | events | create, patch | |
//! | (core) | pods, namespaces | list | pods that should have a sidecar and have none |
//! | admissionregistration.k8s.io | mutatingwebhookconfigurations, only `fairway-injector` | get, list, watch, patch | `caBundle` |
//!
//! and in the install namespace only:
//!
//! | API group | resource | verbs | why |
//! |---|---|---|---|
//! | (core) | configmaps, only `fairway-trust` | get, list, watch | the root's hash |
//! | (core) | secrets | create | a name cannot be given for this verb |
//! | (core) | secrets, only `fairway-webhook-cert` | get, list, watch, update | the webhook's certificate |
//! | coordination.k8s.io | leases | create | a name cannot be given for this verb |
//! | coordination.k8s.io | leases, only `fairway-operator` | get, update | election |
//!
//! It has no rights to pods but to list them: the API server changes pods, by
//! the patches that the webhook answers with.

pub mod call;
pub mod config;
pub mod controllers;
pub mod inject;
pub mod leader;
pub mod limits;
pub mod metrics;
pub mod trust;
pub mod webhook;

#[cfg(test)]
mod testing;

/// Who writes, in `managedFields`.
pub const FIELD_MANAGER: &str = "fairway-operator";
