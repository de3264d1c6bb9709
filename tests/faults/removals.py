"""Take each protection out of a copy and see its test fail: ``python -m tests.faults.removals [NAME ...]``.

A test that passes without what it guards proves nothing. A test short of time fails, too: so all are run
first as things are, with the same patience, and have to pass. Needs a quiet machine and most of an hour.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", "demo")
FAULTS = "tests/faults/test_"


@dataclass(frozen=True)
class Removal:
    """A protection: where it stands, what stands there without it, and the test that has to notice.

    `before` has to be in `file`, once: when the code moves on, this list is mended with it.
    """

    name: str
    file: str
    before: str
    after: str
    test: str


REMOVALS = (
    Removal(
        "garbage",
        "store/queue/broker.py",
        "        if not is_message(message):\n",
        "        if False:\n",
        "tests/db/test_broker.py::test_garbage_is_dropped_and_counted_and_what_follows_arrives",
    ),
    Removal(
        "deadline",
        "store/base/deadline.py",
        "        self._timer.start()\n",
        "",
        "tests/db/test_notices.py::test_a_receiver_that_drips_bytes_is_left_in_time[endless lines]",
    ),
    Removal(
        "lanes",
        "store/queue/dispatch.py",
        "        mine = [units[kind] for kind in lane.kinds if kind in units]\n",
        "        mine = list(units.values())\n",
        "tests/db/test_work_kinds.py::test_exports_and_notices_take_no_room_from_reading",
    ),
    Removal(
        "sqlstate",
        "store/base/session.py",
        'UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")',
        'UNAVAILABLE_CLASSES = ("08", "53", "57", "58", "40", "55")',
        "tests/db/test_recovery.py::test_a_query_that_is_broken_off_each_time_counts_and_ends",
    ),
    Removal(
        "given_back_for_ever",
        "store/queue/work.py",
        "if (now - since).total_seconds() < get_settings().unavailable_seconds:",
        "if True:",
        "tests/db/test_work.py::test_what_is_given_back_for_too_long_fails_with_the_reason",
    ),
    Removal(
        "expire_leases",
        "worker/reconcile.py",
        "expired = work.expire_leases(session)",
        "expired = 0",
        FAULTS + "processes.py::test_every_process_killed_at_once",
    ),
    Removal(
        "reconcile_dispatch",
        "worker/reconcile.py",
        "    dispatch(resend=True)\n",
        "    pass\n",
        FAULTS + "processes.py::test_whoever_submits_dies_before_dispatching",
    ),
    Removal(
        "second_reconcile",
        "worker/reconcile.py",
        "                    if ended(wait):\n                        return\n                with",
        "                    return\n                with",
        FAULTS + "processes.py::test_a_second_reconcile_takes_over",
    ),
    Removal(
        "sigterm",
        "worker/app.py",
        "    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGQUIT))\n",
        "",
        FAULTS + "processes.py::test_sigterm_gives_work_back_without_counting_an_attempt[decoding]",
    ),
    Removal(
        "overdue",
        "store/queue/dispatch.py",
        "                messages += _overdue(session)\n",
        "                pass\n",
        FAULTS + "servers.py::test_valkey_killed_and_restarted_empty",
    ),
    Removal(
        "acknowledging",
        "worker/tasks.py",
        '            Request="worker.acknowledging:Request",\n',
        "",
        FAULTS + "servers.py::test_valkey_dies_while_a_stage_runs_and_is_away_when_it_is_acknowledged",
    ),
    Removal(
        "away",
        "store/base/session.py",
        "return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated",
        "return False",
        FAULTS + "servers.py::test_postgres_killed_while_everybody_commits",
    ),
    Removal(
        "both",
        "worker/reconcile.py",
        "        except SQLAlchemyError as error:\n",
        "        except ServiceError as error:\n",
        FAULTS + "servers.py::test_both_at_once",
    ),
    Removal(
        "fsync",
        "cli/embedded.py",
        '"log_checkpoints": "off",',
        '"synchronous_commit": "off", "wal_writer_delay": "10s",',
        FAULTS + "servers.py::test_a_commit_that_a_killed_postgres_promised_is_there",
    ),
    Removal(
        "startup_retry",
        "worker/app.py",
        "broker_connection_retry_on_startup=True",
        "broker_connection_retry_on_startup=False",
        FAULTS + "servers.py::test_workers_start_before_the_servers_answer",
    ),
    Removal(
        "order",
        "store/queue/work.py",
        "        if position < wanted:\n            return Verdict.END\n",
        "",
        FAULTS + "messages.py::test_messages_in_reverse_order",
    ),
    Removal(
        "doubled",
        "store/queue/work.py",
        "        if position > wanted:\n            return Verdict.PASS\n",
        "",
        FAULTS + "nothing_lost.py::test_the_same_message_delivered_five_times",
    ),
    Removal(
        "token",
        "store/queue/work.py",
        "select(Work).where(Work.id == lease.work_id, Work.lease_token == lease.token)",
        "select(Work).where(Work.id == lease.work_id)",
        FAULTS + "messages.py::test_a_worker_that_wakes_after_its_lease_writes_nothing",
    ),
    Removal(
        "versions",
        "worker/tasks.py",
        ", work_id: str, **_: object)",
        ", work_id: str)",
        FAULTS + "messages.py::test_messages_of_other_versions",
    ),
    Removal(
        "split",
        "store/queue/work.py",
        "    if split and len(images) > 1:\n",
        "    if False:\n",
        FAULTS + "poison.py::test_a_poison_image[aborts]",
    ),
    Removal(
        "rlimit",
        "worker/app.py",
        'if settings.memory_limit_bytes and "gpu" not in queues:',
        "if False:",
        FAULTS + "poison.py::test_a_poison_image[eats memory]",
    ),
    Removal(
        "soft",
        "worker/app.py",
        "    task_soft_time_limit=settings.soft_time_limit,\n",
        "    task_soft_time_limit=None,\n",
        FAULTS + "poison.py::test_a_poison_image[loops]",
    ),
    Removal(
        "hard",
        "worker/app.py",
        "    task_time_limit=settings.hard_time_limit,\n",
        "    task_time_limit=None,\n",
        FAULTS + "poison.py::test_a_poison_image[hangs in C]",
    ),
    Removal(
        "full",
        "worker/flow.py",
        "isinstance(error, BlobUnavailable | BlobFull)",
        "isinstance(error, BlobUnavailable)",
        FAULTS + "storage.py::test_the_blob_store_takes_nothing_for_a_while[full]",
    ),
    Removal(
        "readonly",
        "worker/flow.py",
        "isinstance(error, BlobUnavailable | BlobFull)",
        "isinstance(error, BlobFull)",
        FAULTS + "storage.py::test_the_blob_store_takes_nothing_for_a_while[read-only]",
    ),
    Removal(
        "altered",
        "worker/stages/prepare.py",
        "    if stated is not None and hashlib.sha256(data).hexdigest() != stated:",
        "    if False:",
        FAULTS + "storage.py::test_an_upload_that_is_no_longer_what_was_sent[altered]",
    ),
    Removal(
        "missing",
        "store/queue/work.py",
        "    if split and len(images) > 1:\n",
        "    if False:\n",
        FAULTS + "storage.py::test_an_upload_that_is_no_longer_what_was_sent[missing]",
    ),
    Removal(
        "stack",
        "store/queue/work.py",
        "        stage=STAGES[0].value,\n        priority=work.priority,",
        "        stage=work.stage,\n        priority=work.priority,",
        FAULTS + "storage.py::test_a_chunk_whose_input_stack_is_gone_starts_again[missing]",
    ),
    Removal(
        "clock_worker",
        "store/queue/work.py",
        "    return func.clock_timestamp() + timedelta(seconds=seconds)",
        "    return datetime.now().astimezone() + timedelta(seconds=seconds)",
        FAULTS + "clock.py::test_a_workers_clock_jumps_in_mid_batch[-1h]",
    ),
    Removal(
        "clock_back",
        "worker/reconcile.py",
        "mended = work.clamp_future_timestamps(session)",
        "mended = 0",
        FAULTS + "clock.py::test_the_databases_clock_is_set_back_while_a_worker_dies",
    ),
    Removal(
        "clock_forward",
        "store/queue/work.py",
        "    work.attempt += 1\n    work.lease_token = work.lease_until = None\n",
        "    work.attempt += 1\n",
        FAULTS + "clock.py::test_the_databases_clock_is_set_forward",
    ),
    Removal(
        "cancel",
        "store/queue/work.py",
        "    if session.scalar(select(Batch.cancelled_at).where(Batch.id == work.batch_id)) is None:",
        "    if True:",
        # in a whole service `take` asks again before the next stage: only the last one would go through
        "tests/db/test_batches.py::test_cancel_ends_what_waits_and_leaves_what_a_worker_holds",
    ),
    Removal(
        "submit_lock",
        "store/intake/batches.py",
        "site_id, batch_id, lock=True)\n    if batch.status != BatchStatus.DRAFT:\n        return batch",
        "site_id, batch_id)\n    if batch.status != BatchStatus.DRAFT:\n        return batch",
        FAULTS + "storms.py::test_the_same_submission_twenty_times_at_once",
    ),
    Removal(
        "stray_stack",
        "worker/stages/finish.py",
        "    for key in list(blobs.keys(scratch_of(batch_id))):",
        "    for key in ():",
        FAULTS + "nothing_lost.py::test_a_worker_killed_in_mid_chunk",
    ),
    Removal(
        "stray_upload",
        "worker/stages/finish.py",
        "    for key in list(blobs.keys(batches.incoming_of(batch_id))):",
        "    for key in ():",
        FAULTS + "nothing_lost.py::test_a_worker_killed_in_mid_chunk",
    ),
    Removal(
        "s3_away",
        "worker/flow.py",
        "isinstance(error, BlobUnavailable | BlobFull)",
        "isinstance(error, BlobFull)",
        FAULTS + "s3.py::test_the_line_to_the_store_breaks_in_mid_batch[down]",
    ),
    Removal(
        "s3_stream",
        "store/base/blobs.py",
        "            except (BotoCoreError, OSError) as error:\n",
        "            except OSError as error:\n",
        FAULTS + "s3.py::test_a_broken_line_is_told_as_storage_that_does_not_answer",
    ),
    Removal(
        "no_room_for_rows",
        "web/base/errors.py",
        "BlobFull() if is_disk_full(error) else DatabaseUnavailable() if gone else InternalError()",
        "DatabaseUnavailable()",
        FAULTS + "disk.py::TestPostgres::test_no_room_for_rows",
    ),
    Removal(
        "no_room_half_written",
        "web/intake/uploads.py",
        "session_scope(on_rollback=lambda: self._forget(pending))",
        "session_scope()",
        FAULTS + "disk.py::TestPostgres::test_no_room_for_rows",
    ),
    Removal(
        "commit_unknown",
        "store/base/session.py",
        "if on_rollback is not None and not committing:",
        "if on_rollback is not None:",
        "tests/web/test_uploads.py::test_files_whose_commit_was_not_acknowledged_are_kept",
    ),
    Removal(
        "no_room_for_uploads",
        "store/base/blobs.py",
        "            os.unlink(temporary)\n",
        "            pass\n",
        FAULTS + "disk.py::TestBlobs::test_no_room_for_uploads",
    ),
    Removal(
        "no_text",
        "web/base/request_args.py",
        "    if not writable:",
        "    if False:",
        "tests/web/test_hardening.py::test_no_address_nor_body_takes_a_character_that_no_text_has[nul]",
    ),
    Removal(
        "form_text",
        "web/factory.py",
        "    request_args.register(app)\n",
        "",
        "tests/web/test_form_fuzz.py::test_no_form_breaks",
    ),
    Removal(
        "selftest",
        "models/scorer.py",
        "        _check(network, run(images), read_expected(folder), name, TOLERANCE[self.precision])\n",
        "",
        "tests/unit/test_scorer.py::test_a_backend_that_disagrees_refuses_to_serve",
    ),
    Removal(
        "convlock",
        "models/convert.py",
        "        fcntl.flock(lock, fcntl.LOCK_EX)\n",
        "",
        "tests/unit/test_scorer.py::test_two_processes_convert_once",
    ),
    Removal(
        "strays",
        "store/operations/retention.py",
        "        stray_ids = [image.id for image in strays]",
        "        stray_ids = []",
        "tests/web/test_retention.py::test_a_marker_in_every_state_and_place_goes",
    ),
    Removal(
        "exports_held",
        "store/operations/retention.py",
        "        for key in exports.delete_holding(session, site_id, [*held, *stray_ids]):\n"
        "            get_blobs().delete(key)",
        "        pass",
        "tests/web/test_retention.py::test_a_marker_in_every_state_and_place_goes",
    ),
    Removal(
        "disabled",
        "store/accounts/people.py",
        "    accounts.end_access(session, user, by=by)\n    return user\n\n\ndef enable",
        "    return user\n\n\ndef enable",
        "tests/web/test_accounts.py::test_who_is_disabled_is_out_with_keys_and_links",
    ),
    Removal(
        "needs_person",
        "web/auth/identity.py",
        "    if identity().key_id is not None:\n        raise NeedsPerson",
        "    if False:\n        raise NeedsPerson",
        "tests/web/test_admin_api.py::test_a_key_that_administers_makes_nobody_more",
    ),
    Removal(
        "confirm_person",
        "web/accounts/actions.py",
        "        if action in _CONFIRMED:",
        "        if action == 'role':",
        "tests/web/test_accounts.py::test_an_open_browser_alone_makes_no_key_and_no_administrator",
    ),
    Removal(
        "confirm_policy",
        "web/accounts/people.py",
        "    confirm_lately()\n    with session_scope() as session:\n        site =",
        "    with session_scope() as session:\n        site =",
        "tests/web/test_accounts.py::test_an_open_browser_alone_makes_no_key_and_no_administrator",
    ),
    Removal(
        "throttle",
        "web/auth/sign_in.py",
        "    if attempt is None:\n        raise TooManyAttempts\n    return attempt",
        "    if attempt is None:\n        attempt = []\n    return attempt",
        "tests/web/test_auth.py::test_guessing_is_slowed_down",
    ),
    Removal(
        "sign_password",
        "web/auth/identity.py",
        "    if way is Confirmation.CONFIRMED:\n        return\n    if way",
        "    if True:\n        return\n    if way",
        "tests/web/test_signing.py::test_a_program_signs_with_its_owners_password_alone",
    ),
    Removal(
        "local_address",
        "web/auth/sign_in.py",
        '    return address if safe and printable and "\\\\" not in address else',
        "    return address if True else",
        "tests/web/test_auth.py::test_signing_in_never_leads_elsewhere",
    ),
    Removal(
        "weak_tag",
        "web/intake/api.py",
        "request.if_none_match.contains_weak(batch_etag(batch))",
        "request.if_none_match.contains(batch_etag(batch))",
        "tests/web/test_http.py::test_a_tag_that_a_proxy_made_weak_still_answers_304",
    ),
    Removal(
        "prefix",
        "web/base/request_args.py",
        '    if request.headers.get("X-Forwarded-Prefix", "/") not in {"", "/"}:',
        "    if False:",
        "tests/web/test_http.py::test_a_proxy_below_a_path_is_refused_on_every_page",
    ),
    Removal(
        "stow_objects",
        "web/intake/dicomweb.py",
        "            if (n := n + 1) > MAX_OBJECTS:",
        "            if False:",
        "tests/web/test_dicomweb.py::test_more_objects_than_a_request_may_have_are_refused",
    ),
    Removal(
        "fhir_trials",
        "store/results/fhir.py",
        "Batch.promoted, Batch.run_id",
        "Batch.run_id",
        "tests/web/test_fhir.py::test_what_a_bundle_on_trial_says_is_not_told",
    ),
    Removal(
        "fhir_site",
        "store/results/fhir.py",
        "StudyFinding.site_id == site_id, Batch",
        "Batch",
        "tests/web/test_fhir.py::test_readings_are_searched_and_their_references_hold",
    ),
    Removal(
        "undo_own",
        "store/reading/reviews.py",
        "        review.user_id == user_id\n        and session.get",
        "        session.get",
        "tests/web/test_bulk.py::test_an_answer_is_taken_back_by_its_reader_once_and_soon",
    ),
    Removal(
        "undo_signed",
        "store/reading/reviews.py",
        "        and session.scalar(signed.limit(1)) is None\n",
        "",
        "tests/web/test_bulk.py::test_an_answer_that_is_signed_stays",
    ),
    Removal(
        "bulk_site",
        "store/reading/worklist.py",
        "            WorklistRow.site_id == site_id,\n"
        "            WorklistRow.study_id.in_(study_ids),\n"
        "            WorklistRow.rank < int",
        "            WorklistRow.study_id.in_(study_ids),\n            WorklistRow.rank < int",
        "tests/web/test_bulk.py::test_studies_of_another_site_are_not_touched",
    ),
    Removal(
        "cells",
        "store/results/downloads.py",
        "cell(v) if isinstance(v, str) else v for v in values",
        "v for v in values",
        "tests/web/test_results.py::test_formulas_are_harmless_and_come_back",
    ),
)


def run(tests: Collection[str], removal: Removal | None, patience: float) -> dict[str, str]:
    """Run tests in a copy of the project, without the protection if one is named; return why each failed."""
    with tempfile.TemporaryDirectory(prefix="fractureai-removal-") as name:
        copy = Path(name) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        for kept in (".venv", ".pytest_cache"):
            if (ROOT / kept).is_dir():
                (copy / kept).symlink_to(ROOT / kept)
        if removal is not None:
            file = copy / removal.file
            text = file.read_text()
            if text.count(removal.before) != 1:
                raise SystemExit(f"{removal.name}: {removal.file} does not hold once {removal.before!r}")
            file.write_text(text.replace(removal.before, removal.after))
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "faults or not faults", *tests]
        environment = {**os.environ, "FRACTUREAI_TEST_PATIENCE": str(patience), "COLUMNS": "240"}
        ended = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    said = dict.fromkeys(tests, "skipped, or never ended")
    for line in ended.stdout.splitlines():
        outcome, _, rest = line.partition(" ")
        test, _, why = rest.partition(" - ")
        if test in said and outcome in {"PASSED", "FAILED", "ERROR"}:
            said[test] = "" if outcome == "PASSED" else why or outcome
    return said


def main() -> None:
    """Print a line a removal; status 1 when a test did not notice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a test waits for anything")
    arguments = parser.parse_args()
    removals = [r for r in REMOVALS if not arguments.names or r.name in arguments.names]
    as_is = run(dict.fromkeys(removal.test for removal in removals), None, arguments.patience)
    unnoticed = 0
    for removal in removals:
        if as_is[removal.test]:
            said = f"fails as things are: {as_is[removal.test]}"
        elif why := run([removal.test], removal, arguments.patience)[removal.test]:
            said = f"fails without the protection: {why}"
        else:
            said = "PASSES without the protection"
        unnoticed += not said.startswith("fails without")
        print(f"{removal.name}: {removal.test} {said}", flush=True)
    raise SystemExit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
