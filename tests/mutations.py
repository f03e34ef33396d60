"""``python -m tests.mutations [NAME ...]``: takes out one safeguard after another and shows that a test turns red.

Each mutation is one replacement in a copy of the project; the tests named beside it are run there. The suite itself
only checks (``test_mutations.py``) that the text to replace is still there: running all of them takes some minutes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.processes import ROOT

_COPIED: Final = ("app", "templates", "tests", "deploy", "pyproject.toml", "README.md", "CONTRIBUTING.md")
_IGNORED: Final = shutil.ignore_patterns("__pycache__", "node_modules", "private")


@dataclass(frozen=True)
class Mutation:
    """A safeguard that is taken out of ``file`` by a replacement, and the tests of which one must then fail."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS: Final = (
    Mutation(
        "each byte of slow headers prolongs their time",
        "app/web/aiohttp_internals.py",
        "self._headers_since = self._headers_since or self._loop.time()",
        "self._headers_since = self._loop.time()\n            self._has_sent = False",
        ("tests/web/sockets/test_slow_clients.py",),
    ),
    Mutation(
        "an answer that nobody reads keeps its connection",
        "app/web/aiohttp_internals.py",
        "elif now - self._unread_since >= limits.unread_s:",
        "elif False:",
        ("tests/web/sockets/test_slow_clients.py",),
    ),
    Mutation(
        "there is no reserve of connections",
        "app/web/connections.py",
        "if group.reserve.has_room:",
        "if False:",
        ("tests/web/sockets/test_many_connections.py",),
    ),
    Mutation(
        "a connection that waits for the server gives way",
        "app/web/aiohttp_internals.py",
        "if self._messages or (self._request_in_progress and (request is None or request.content.is_eof())):",
        "if self._messages:",
        ("tests/web/sockets/test_many_connections.py",),
    ),
    Mutation(
        "haproxy waits 20 s for a TLS hello",
        "deploy/haproxy.cfg",
        "timeout client 5s",
        "timeout client 20s",
        ("tests/deploy/test_haproxy.py",),
    ),
    Mutation(
        "haproxy lets one address take all connections",
        "deploy/haproxy.cfg",
        "tcp-request connection reject if { sc0_conn_cur gt 200 }",
        "",
        ("tests/deploy/test_haproxy.py",),
    ),
    Mutation(
        "the console waits behind devices at haproxy",
        "deploy/haproxy.cfg",
        "set-priority-class int(-1)",
        "set-priority-class int(0)",
        ("tests/deploy/test_haproxy.py",),
    ),
    Mutation(
        "an old key's assertion is not capped by its grace",
        "app/service/authenticate.py",
        "used_until_ms = min(single_use.until_ms, candidate.until_ms)",
        "used_until_ms = single_use.until_ms",
        ("tests/web/test_rotation.py",),
    ),
    Mutation(
        "an answer of Redis older than 2 s is used",
        "app/service/issue.py",
        "if asyncio.get_running_loop().time() - answer.asked_at <= MAX_ANSWER_AGE_S:",
        "if answer:",
        ("tests/web/test_oauth.py",),
    ),
    Mutation(
        "a page that refreshes itself prolongs the session",
        "app/web/console/guard.py",
        "touch=REFRESH_HEADER not in request.headers",
        "touch=True",
        ("tests/web/console/test_session.py",),
    ),
    Mutation(
        "looking at a session always prolongs it",
        "app/store/sessions.py",
        "prolongs=int(touch)",
        "prolongs=1",
        ("tests/store/test_sessions.py",),
    ),
    Mutation(
        "a device's own revoke gets operators' priority",
        "app/service/revoke.py",
        "Priority.DEVICE if caller.client_id else Priority.OPERATOR",
        "Priority.OPERATOR",
        ("tests/service/test_revoke.py",),
    ),
    Mutation(
        "after a rotation nothing is verified again",
        "app/service/authenticate.py",
        "proof.client = await self._verify(proof, may_be_cached=False)",
        "pass",
        ("tests/web/test_rotation.py",),
    ),
    Mutation(
        "a right key is refused beyond the limit",
        "app/service/authenticate.py",
        "return await _until(proof.deadline, self._attacked.run(check))",
        'raise InvalidClient("limit")',
        ("tests/web/test_failure_limits.py",),
    ),
    Mutation(
        "X-Forwarded-For is believed from everyone",
        "app/web/client_address.py",
        "if contains(self._trusted, address):\n            address =",
        "if _HEADER in request.headers:\n            address =",
        ("tests/web/test_client_address.py",),
    ),
    Mutation(
        "the leeway of exp is doubled",
        "app/service/client_credentials.py",
        "if expires_s <= now_s - LEEWAY_S:",
        "if expires_s <= now_s - 2 * LEEWAY_S:",
        ("tests/web/test_authentication.py",),
    ),
    Mutation(
        "a job does not pause between its steps",
        "app/service/jobs.py",
        "await asyncio.sleep(max(MIN_PAUSE_S, self._due - self._clock()))",
        "await asyncio.sleep(0)",
        ("tests/service/test_jobs.py",),
    ),
    Mutation(
        "what is done for operators waits for no turn",
        "app/loop_share.py",
        "return await self._drive(work(), in_turn=True)",
        "return await work()",
        ("tests/test_loop_share.py",),
    ),
    Mutation(
        "long work for operators lets nothing else continue",
        "app/loop_share.py",
        "SLICE_S: Final = 0.0005",
        "SLICE_S: Final = 5.0",
        ("tests/web/test_operator_share.py",),
    ),
    Mutation(
        "an invalid session takes a place among the operators",
        "app/web/console/access.py",
        "services.operators_share if has_valid_session else services.visitors_share",
        "services.operators_share",
        ("tests/web/test_operator_share.py",),
    ),
    Mutation(
        "the reader of an export may take as long as they like",
        "app/web/console/download.py",
        "asyncio.timeout(SENT_WITHIN_S) as limit",
        "asyncio.timeout(None) as limit",
        ("tests/web/console/test_download.py",),
    ),
    Mutation(
        "the sandbox counts a refused call towards the limit",
        "app/sandbox/call_meter.py",
        "if has_room:",
        "if True:",
        ("tests/sandbox/test_call_meter.py",),
    ),
    Mutation(
        "the sandbox counts a call when it is read",
        "app/sandbox/arrivals.py",
        "self._last[descriptor] = now_s - age_s, True",
        "self._last[descriptor] = now_s, True",
        ("tests/sandbox/test_arrivals.py",),
    ),
    Mutation(
        "injected throttling uses up the quota",
        "app/sandbox/gateway.py",
        "self._throttle.withdraw(call.account, call.action, arrival)",
        "pass",
        ("tests/sandbox/test_limits.py",),
    ),
    Mutation(
        "permit before connecting",
        "app/cloud/signed_calls.py",
        """                async with self._connector.connections(
                    turn.calls, within_s=self._connect_within_s(turn), on_closed=place.disconnected
                ) as connections:
                    credentials = await self._credentials.get(deadline=turn.begin_by)
                    if not all(each.is_open for each in connections):
                        continue  # to take a permit for them would be in vain
                    permit, is_sent = await place.permit(), False
""",
        """                permit, is_sent = await place.permit(), False
                async with self._connector.connections(
                    turn.calls, within_s=self._connect_within_s(turn), on_closed=place.disconnected
                ) as connections:
                    credentials = await self._credentials.get(deadline=turn.begin_by)
""",
        ("tests/service/test_calls_under_way.py",),
    ),
    Mutation(
        "a late permit is used",
        "app/cloud/permit_connector.py",
        "if asyncio.get_running_loop().time() >= void_at or not all(each.is_open for each in connections):",
        "if not all(each.is_open for each in connections):",
        ("tests/cloud/test_permit_connector.py",),
    ),
    Mutation(
        "calls under way have no limit",
        "app/service/permit_queue.py",
        "has_room = places + waiter.count <= self._limits.places",
        "has_room = True",
        ("tests/service/test_permit_queue.py",),
    ),
    Mutation(
        "shrinking at every Overflow",
        "app/store/report_calls.lua",
        "if pace and taken_at_us < pace.shrunk_at_us + SECOND_US then",
        "if false then",
        ("tests/store/test_quota_back_off.py",),
    ),
    Mutation(
        "no breaker",
        "app/store/report_calls.lua",
        "if failed ~= '1' or tonumber(failing_us) < OPEN_AFTER_US then",
        "if true then",
        ("tests/store/test_quota_breaker.py",),
    ),
    Mutation(
        "a permit counts for no longer than the cloud's second",
        "app/store/_quota.lua",
        "return SECOND_US + jitter_us + valid_us + PERMIT_ROUNDING_US",
        "return SECOND_US + PERMIT_ROUNDING_US",
        ("tests/store/test_quota.py",),
    ),
    Mutation(
        "no breaker: failures by connection are not reported",
        "app/service/call_findings.py",
        "self._failed, self._failed_last_at = True, now",
        "self._failed_last_at = now",
        ("tests/service/test_cloud_watch.py",),
    ),
    Mutation(
        "renewals that wait for permits keep the places of better callers",
        "app/service/permit_queue.py",
        "places = self._places - worse",
        "places, without_permit = self._places, without_permit + worse",
        ("tests/service/test_permit_queue.py",),
    ),
    Mutation(
        "a queue that has not asked of late does not learn that calls go on",
        "app/service/permit_queue.py",
        "            self._closed_until = None\n            self._give_places(now)\n\n",
        "            pass\n\n",
        ("tests/service/test_permit_queue.py",),
    ),
    Mutation(
        "a probe is sent by a caller that gives it up before the time-out",
        "app/service/permit_queue.py",
        "self._action in PROBES and due_at + takes_s <= deadline",
        "self._action in PROBES and due_at <= deadline",
        ("tests/service/test_permit_queue.py",),
    ),
    Mutation(
        "a call that was given up early counts as a failure by connection",
        "app/service/call_findings.py",
        "return not is_given_up or waited_s >= self._no_answer_s",
        "return True",
        ("tests/service/test_call_findings.py",),
    ),
    Mutation(
        "requests are refused before Redis is asked",
        "app/service/issue.py",
        "        asked_at = asyncio.get_running_loop().time()\n",
        "        asked_at = asyncio.get_running_loop().time()\n"
        '        if refuse_as.first:\n            raise Unavailable("no token for now")\n',
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "renewals are admitted by the rank of devices without a token",
        "app/service/applications.py",
        "renewal = self._refusal(grant, CallRank.RENEWAL, within_s)",
        "renewal = first",
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "Retry-After is fixed",
        "app/service/issue.py",
        "return await self._promises.next_s(client_id, len(answer.grant.split()))",
        "return 8.0",
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "all devices that are refused are to come back at the same time",
        "app/service/retry_promises.py",
        "return max(0.0, instant.at - loop.time())",
        "return 8.0",
        ("tests/simulation/test_fleet.py",),
    ),
    Mutation(
        "while calls are stopped devices are promised what cannot be kept",
        "app/store/promise_retry.lua",
        "breaker and math.max(now, breaker.probe_at_us, breaker.lease_until_us) or now",
        "now",
        ("tests/simulation/test_fleet.py",),
    ),
    Mutation(
        "an open breaker moves the promises of those that are not behind it",
        "app/store/promise_retry.lua",
        "keep_promised(breaker.key == group_breaker and group_promise or own_promise, start_us)",
        "keep_promised(promise, start_us)",
        ("tests/store/test_quota_promises.py",),
    ),
    Mutation(
        "callers of two calls at once get an odd number of permits",
        "app/store/take_permits.lua",
        "  count = count - count % least\n",
        "",
        ("tests/store/test_quota.py",),
    ),
    Mutation(
        "a permit that waits for another one is void before the next question",
        "app/service/pacing.py",
        "grant.again_in_s if is_short else _pause_s(grant)",
        "_pause_s(grant)",
        ("tests/simulation/test_calls_at_the_cloud.py",),
    ),
    Mutation(
        "each refusal takes another promise",
        "app/service/retry_promises.py",
        "if instant is None or instant.has_passed(loop.time()):",
        "if True:",
        ("tests/service/test_retry_promises.py",),
    ),
    Mutation(
        "a refusal of the queue is marked for as long as the queue is",
        "app/service/applications.py",
        "if isinstance(error, QuotaRefusal):",
        "if False:",
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "delivery claims one revocation after the other while calls are stopped",
        "app/service/delivery.py",
        "await self._gate.wait()",
        "pass",
        ("tests/service/test_delivery.py",),
    ),
    Mutation(
        "renewals go before devices without a token",
        "app/service/issue.py",
        "rank = CallRank.RENEWAL if answer.result.token else CallRank.FIRST",
        "rank = CallRank.FIRST if answer.result.token else CallRank.RENEWAL",
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "a renewal waits in vain under pressure",
        "app/service/issue.py",
        "return started_at if is_slow else started_at + FALLBACK_PATIENCE_S",
        "return started_at + FALLBACK_PATIENCE_S",
        ("tests/web/test_overload.py",),
    ),
    Mutation(
        "what waits for the cloud is counted among the requests worked on",
        "app/service/introspect.py",
        "with self._limiter.suspended():",
        "if True:",
        ("tests/web/test_request_limiter.py",),
    ),
)


def main() -> None:
    """Run the mutations that are named, or all. Ends with 1 if one of them turns no test red."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a mutation's name")
    names = parser.parse_args().names
    chosen = [each for each in MUTATIONS if not names or any(name in each.name for name in names)]
    survived = 0
    # Two at a time, because tests wait half of their time.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for each, (found, took_s) in zip(chosen, pool.map(_try, chosen), strict=True):
            survived += not found
            print(f"{'red     ' if found else 'SURVIVED'} {took_s:5.1f} s  {each.name}", flush=True)
    sys.exit(1 if survived or not chosen else 0)


def _try(mutation: Mutation) -> tuple[bool, float]:
    """Return whether a mutation is found, and how many seconds that took."""
    began = time.monotonic()
    return is_found(mutation), time.monotonic() - began


def is_found(mutation: Mutation) -> bool:
    """Tell whether a test fails without the safeguard, in a copy of the project."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=_IGNORED)
            else:
                shutil.copy(source, copy / name)
        mutated = copy / mutation.file
        mutated.write_text(mutate(mutation, mutated.read_text()))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests]
        result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if result.returncode not in {0, 1}:
        raise RuntimeError(
            f"{mutation.name}: the tests could not be run\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        )
    return result.returncode == 1


def mutate(mutation: Mutation, text: str) -> str:
    """Return the file's text without the safeguard. Raises ``ValueError`` unless it occurs exactly once."""
    if text.count(mutation.before) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} must have once: {mutation.before}")
    return text.replace(mutation.before, mutation.after)


if __name__ == "__main__":
    main()
