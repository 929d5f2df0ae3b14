//! Families about who may do what: wrong passwords, refusals, clients by user.

use super::family::{Family, PORT, REFUSED as REFUSED_KIND, USER, counter, gauge};
use super::labels::{Label as _, Port, Refused};
use super::read::each_cell;

pub(super) const AUTH_FAILURES: Family = counter(
    "preshard_auth_failures_total",
    &[PORT],
    "Failed AUTH and HELLO AUTH, by the listener.",
    |s, out| {
        let admin = s.control().auth_failures.load();
        let all = s.sum(|w| w.auth_failures.load());
        out.count(&[Port::Data.name()], all - admin);
        out.count(&[Port::Admin.name()], admin);
    },
);

pub(super) const REFUSED: Family = counter(
    "preshard_acl_refusals_total",
    &[REFUSED_KIND],
    "Requests that a user's rules did not allow.",
    |s, out| each_cell(s, out, |w, kind: Refused| &w.refused[kind]),
);

pub(super) const USER_CLIENTS: Family = gauge(
    "preshard_user_clients",
    &[USER],
    "Clients of the data port that are this user now.",
    |s, out| {
        for (user, clients) in s.facts.user_clients() {
            out.count(&[&user], clients);
        }
    },
);
