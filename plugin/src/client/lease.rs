//! The lease under which a load works. A killed load leaves it, with what it keeps from being collected, for an hour; the next load
//! removes it, where it can tell that its process has ended.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{ClientError, Containerd};
use crate::api::grpc::leases_client::LeasesClient;
use crate::api::leases::{CreateRequest, DeleteRequest, ListRequest};

/// Says whose a lease is, as [`Owner`] writes it.
const OWNER_LABEL: &str = "io.d4c.load.owner";

/// A process, told from all others of this start of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    /// Another boot ID may be another machine's.
    boot: String,
    /// Where its number means something.
    namespace: String,
    pid: i32,
    /// When it started, in ticks since the machine did: numbers come again.
    started: u64,
}

impl Owner {
    /// The process of this number.
    fn of(pid: i32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may have anything in it.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { boot, namespace, pid, started })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (boot, namespace) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Self { boot, namespace, pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
    }

    /// Whether it has surely ended, as `own`, who asks, can tell.
    fn has_ended(&self, own: &Self) -> bool {
        if (&self.boot, &self.namespace) != (&own.boot, &own.namespace) {
            return false;
        }
        // Who may not see a process may not signal it either, which is another error.
        kill(Pid::from_raw(self.pid), None) == Err(Errno::ESRCH)
            || Self::of(self.pid).is_some_and(|other| other.started != self.started)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.boot, self.namespace, self.pid, self.started)
    }
}

impl Containerd {
    /// A lease of this process.
    pub(super) async fn begin_lease(&self) -> Result<String, ClientError> {
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("d4c-load-{}-{}", std::process::id(), since.as_nanos());
        // An hour, in case this process dies and none comes after it: containerd then forgets the lease by itself.
        let expires = humantime::format_rfc3339_seconds(now + Duration::from_secs(3600)).to_string();
        let mut labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires)]);
        if let Some(own) = i32::try_from(std::process::id()).ok().and_then(Owner::of) {
            self.end_abandoned_leases(&own).await;
            labels.insert(OWNER_LABEL.to_owned(), own.to_string());
        }
        let mut client = LeasesClient::with_interceptor(self.channel.clone(), self.headers(None)?);
        let request = CreateRequest { id: id.clone(), labels, ..Default::default() };
        client.create(request).await.map_err(ClientError::call("create lease", id.clone()))?;
        Ok(id)
    }

    pub(super) async fn end_lease(&self, id: String) -> Result<(), ClientError> {
        let mut client = LeasesClient::with_interceptor(self.channel.clone(), self.headers(None)?);
        let request = DeleteRequest { id: id.clone(), ..Default::default() };
        client.delete(request).await.map(drop).map_err(ClientError::call("delete lease", id))
    }

    /// Those that cannot be listed or removed end by themselves.
    async fn end_abandoned_leases(&self, own: &Owner) {
        let Ok(headers) = self.headers(None) else { return };
        let mut client = LeasesClient::with_interceptor(self.channel.clone(), headers);
        let request =
            ListRequest { filters: vec![format!("labels.\"{OWNER_LABEL}\"")], ..Default::default() };
        let Ok(listed) = client.list(request).await else { return };
        for lease in listed.into_inner().leases {
            let owner = lease.labels.get(OWNER_LABEL).and_then(|label| Owner::parse(label));
            if owner.is_some_and(|owner| owner.has_ended(own))
                && self.end_lease(lease.id.clone()).await.is_ok()
            {
                tracing::info!(lease = lease.id, "removed what a killed load left");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_ended_has_ended() {
        let own = Owner::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(Owner::parse(&own.to_string()), Some(own.clone()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Owner::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!own.has_ended(&own) && !other.has_ended(&own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.has_ended(&own));
        let elsewhere = Owner { namespace: "pid:[1]".to_owned(), ..other.clone() };
        let on_another = Owner { boot: "x".to_owned(), ..other.clone() };
        let before = Owner { started: own.started + 1, ..own.clone() };
        assert_eq!([elsewhere, on_another, before].map(|one| one.has_ended(&own)), [false, false, true]);
        assert!(["", "a b c", "a b 1 x"].iter().all(|text| Owner::parse(text).is_none()));
    }
}
