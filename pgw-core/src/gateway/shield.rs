//! The verbs about the shield: who is not let in, and that nothing may change. All of them work while the gateway is frozen.

use std::net::IpAddr;
use std::time::Duration;

use uuid::Uuid;

use crate::access::{AuditAction, AuditObject, DeniedNetwork, Freeze, Network, Shield};
use crate::changes::{Changes, Guard, Write};
use crate::error::Error;
use crate::page::{Cursor, Page, PageFrom, PageRequest};
use crate::payment::plan::Stamp;
use crate::storage::StorageError;
use crate::text::Reason;
use crate::webhook::plan::audit;

use super::once::{Asked, reply, surely};
use super::{Announce, Bound, CONFLICT_TRIES, Commit, Gateway};

/// A network to be denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeniedNetwork {
    /// The network.
    pub network: Network,
    /// Why.
    pub reason: Option<Reason>,
    /// For how long; `None`: until it is taken off the list.
    pub expires_in: Option<Duration>,
}

impl Gateway {
    /// Whether this address is not let in, for whoever owns a door; `pgw-http` asks it for each request.
    ///
    /// Judged by what this process knows of the denylist, which is at most 5 seconds old, or as old as the latest hint. While the storage
    /// cannot be read the last known list stays in use. Where none was ever known nobody is denied: then nothing can be read or changed
    /// through this gateway either.
    ///
    /// ```
    /// # async fn f(gateway: &pgw_core::gateway::Gateway, peer: std::net::IpAddr) {
    /// if gateway.is_denied(peer).await {
    ///     println!("{peer} is not let in");
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Only reads.
    pub async fn is_denied(&self, address: IpAddr) -> bool {
        let parts = &self.parts;
        parts.access.listen(&*parts.notifier).await;
        match parts.access.shield(self.storage()).await {
            Ok(shield) => shield.denies(address, parts.env.now()),
            Err(error) => {
                tracing::warn!(%error, "the denylist was never read; nobody is denied yet");
                false
            }
        }
    }

    /// Whether nothing may change, as this process knows it.
    ///
    /// # Errors
    /// [`StorageError`] when that was never known. No change is let through then: it may be that none may be.
    pub(crate) async fn is_frozen(&self) -> Result<bool, StorageError> {
        let parts = &self.parts;
        parts.access.listen(&*parts.notifier).await;
        Ok(parts.access.shield(self.storage()).await?.freeze().is_some())
    }
}

impl Bound<'_> {
    /// Stops all changes, of every merchant: from now on every verb that changes something for a caller answers [`Error::Frozen`], and no
    /// operation that waits is sent to a processor. In other processes within 5 seconds, or with the hint. A call to a processor that is under
    /// way goes on, and so do reads, look-ups of outcomes that are not known, what processors report, and webhooks. Exempt are these verbs, and
    /// the revocation of API keys.
    ///
    /// Gives the freeze; one that there is already stays as it is.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Storage`].
    pub async fn freeze(&self, reason: &Reason) -> Result<Freeze, Error> {
        let frozen = self.change_shield(|shield, stamp| {
            if let Some(freeze) = &shield.freeze {
                return Ok(Change::None(freeze.clone()));
            }
            let by = stamp.caller.actor.to_string().into();
            let freeze = Freeze { reason: reason.clone(), since: stamp.now, by };
            Ok(Change::To {
                shield: shield.with_freeze(Some(freeze.clone()))?,
                action: AuditAction::GatewayFreeze,
                object: AuditObject::Gateway,
                answer: freeze,
            })
        });
        frozen.await
    }

    /// Lets changes go on. Gives the freeze that was ended; `None` when there was none.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Storage`].
    pub async fn unfreeze(&self) -> Result<Option<Freeze>, Error> {
        // What an earlier try of this call may have ended although its answer was lost.
        let mut tried = None;
        let thawed = self.change_shield(|shield, _| {
            let Some(freeze) = &shield.freeze else { return Ok(Change::None(tried.take())) };
            tried = Some(freeze.clone());
            Ok(Change::To {
                shield: shield.with_freeze(None)?,
                action: AuditAction::GatewayUnfreeze,
                object: AuditObject::Gateway,
                answer: Some(freeze.clone()),
            })
        });
        thawed.await
    }

    /// The freeze, while there is one, as the storage has it now.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn frozen(&self) -> Result<Option<Freeze>, Error> {
        Ok(self.shield_now().await?.freeze)
    }

    /// Puts a network on the denylist, which is one for all merchants: who may do that is the host's to decide. Denied again, its reason and its end are
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a network that holds the caller's own address; [`Error::Busy`]; [`Error::Storage`], with
    /// [`StorageError::Full`] when the list has [`Shield::NETWORKS_MAX`] entries.
    pub async fn deny_network(&self, new: NewDeniedNetwork) -> Result<DeniedNetwork, Error> {
        let asked = Asked::plainly(&reply::NETWORK_DENIED);
        self.deny_network_as(new, &asked).await.map(surely)
    }

    pub(super) async fn deny_network_as(
        &self,
        new: NewDeniedNetwork,
        asked: &Asked<'_, DeniedNetwork>,
    ) -> Result<Option<DeniedNetwork>, Error> {
        if self.caller.origin.is_some_and(|origin| new.network.contains(origin)) {
            return Err(Error::Invalid {
                field: "network",
                code: "own_address",
                message: "must not contain the address that you call from".to_owned(),
            });
        }
        // What an earlier try of this call may have committed.
        let mut tried = None;
        let denied = self.change_shield_as(Some(asked), |shield, stamp| {
            if let Some(entry) = tried.take().filter(|entry| shield.denied.contains(entry)) {
                return Ok(Change::None(entry));
            }
            let entry = DeniedNetwork {
                network: new.network,
                reason: new.reason.clone(),
                created_at: stamp.now,
                created_by: stamp.caller.actor.to_string().into(),
                expires_at: new.expires_in.map(|wait| stamp.now.plus(wait)),
            };
            tried = Some(entry.clone());
            Ok(Change::To {
                shield: shield.deny(entry.clone())?,
                action: AuditAction::NetworkDeny,
                object: AuditObject::Network(new.network),
                answer: entry,
            })
        });
        denied.await
    }

    /// Takes a network off the denylist: the very one that was put on it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn allow_network(&self, network: Network) -> Result<(), Error> {
        let mut is_tried = false;
        let allowed = self.change_shield(|shield, stamp| {
            if shield.entry(network, stamp.now).is_none() {
                // An earlier try may have been applied although its answer was lost.
                return if is_tried {
                    Ok(Change::None(()))
                } else {
                    Err(Error::NotFound("network"))
                };
            }
            is_tried = true;
            Ok(Change::To {
                shield: shield.without(network, stamp.now),
                action: AuditAction::NetworkAllow,
                object: AuditObject::Network(network),
                answer: (),
            })
        });
        allowed.await
    }

    /// Denied networks, newest first, without those whose time is over.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn denied_networks(&self, page: PageRequest) -> Result<Page<DeniedNetwork>, Error> {
        let now = self.gateway.parts.env.now();
        let mut all = self.shield_now().await?.denied;
        all.retain(|entry| entry.is_live(now));
        all.sort_by_key(|entry| std::cmp::Reverse(place(entry)));
        let (rest, is_newer) = match page.from() {
            None => (all, false),
            Some(PageFrom::After(cursor)) => {
                (all.into_iter().filter(|entry| place(entry) < cursor).collect(), false)
            }
            Some(PageFrom::Before(cursor)) => {
                let newer = all.into_iter().filter(|entry| place(entry) > cursor);
                (newer.rev().collect::<Vec<_>>(), true)
            }
        };
        let has_more = rest.len() > page.limit();
        let mut data: Vec<_> = rest.into_iter().take(page.limit()).collect();
        let next_cursor = data.last().map(place).filter(|_| has_more);
        if is_newer {
            data.reverse();
        }
        Ok(Page { data, has_more, next_cursor })
    }

    async fn shield_now(&self) -> Result<Shield, Error> {
        Ok(self.storage.shield(None).await?.unwrap_or_default())
    }

    async fn change_shield<T: Sync + 'static>(
        &self,
        plan: impl FnMut(&Shield, &mut Stamp<'_>) -> Result<Change<T>, Error>,
    ) -> Result<T, Error> {
        self.change_shield_as(None, plan).await.map(surely)
    }

    /// Plans a change of the shield and commits it, again while others are faster; `None` when its key was claimed before.
    async fn change_shield_as<T: Sync + 'static>(
        &self,
        asked: Option<&Asked<'_, T>>,
        mut plan: impl FnMut(&Shield, &mut Stamp<'_>) -> Result<Change<T>, Error>,
    ) -> Result<Option<T>, Error> {
        for _ in 0..CONFLICT_TRIES {
            let shield = self.shield_now().await?;
            let planned = self.plan(|stamp| -> Result<_, Error> {
                let (next, action, object, answer) = match plan(&shield, stamp)? {
                    Change::None(answer) => return Ok(Err(answer)),
                    Change::To { shield, action, object, answer } => {
                        (shield, action, object, answer)
                    }
                };
                let row = audit(action, object, stamp);
                let changes = Changes::new(self.scope().clone())
                    .guard(Guard::Shield { version: shield.version })
                    .write(Write::Shield(Box::new(next.clone())))
                    .write(Write::Audit(Box::new(row)));
                Ok(Ok((changes, next, answer)))
            });
            let (mut changes, next, answer) = match (planned?, asked) {
                (Ok(planned), _) => planned,
                (Err(answer), Some(asked)) => return self.conclude(asked, answer).await,
                (Err(answer), None) => return Ok(Some(answer)),
            };
            if let Some(asked) = asked {
                changes = self.under(asked, changes, &answer)?;
            }
            match self.commit_even_if_frozen(changes).await? {
                Commit::Applied => {
                    // In the host's own transaction nothing has changed yet; the hint goes out with the host's commit.
                    if self.announce == Announce::Now {
                        self.gateway.parts.access.changed_shield(next);
                    }
                    return Ok(Some(answer));
                }
                Commit::Known { .. } => return Ok(None),
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("shield"))
    }
}

/// What a plan makes of the shield.
enum Change<T> {
    /// Nothing: it is as it should be.
    None(T),
    To {
        shield: Shield,
        action: AuditAction,
        object: AuditObject,
        answer: T,
    },
}

/// Where an entry stands in the list: the address in the place of an id.
fn place(entry: &DeniedNetwork) -> Cursor {
    let net = entry.network.net();
    let (address, family) = match net.addr() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 4),
        IpAddr::V6(v6) => (v6, 6),
    };
    let tie = Uuid::from_u128(u128::from(net.prefix_len()) << 8 | family);
    Cursor { tie, ..Cursor::new(entry.created_at, Uuid::from_bytes(address.octets())) }
}
