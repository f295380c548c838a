"""Clients of a `vprm serve` server, with the methods and results of a `StepScorer`."""

from vprm_client.asynchronous import AsyncClient, AsyncRemoteSession
from vprm_client.client import Client, RemoteSession

__all__ = ["AsyncClient", "AsyncRemoteSession", "Client", "RemoteSession"]
