"""What users, the service and operators do, drawn at random: the histories that cleanups then meet."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random

from tests.cleanup.service import ENDS, Service

# Each as often as this says.
_ACTS = {
    "sign_up": 1, "delete_user": 1, "leave_scratch": 1, "begin_a_job": 2, "do_a_job": 2, "begin_a_run": 1,
    "wizard_step": 1, "submit": 1, "end": 1, "append": 3, "append_and_forget": 2, "opt_out": 1,
    "give_up_idle_drafts": 1, "delete_job": 1, "export": 1, "upload": 1, "unpack": 1, "convert": 1, "import_a_file": 3,
    "import_again": 2, "remove": 2, "automate": 1, "automate_and_forget": 2, "stop_automating": 1, "fire": 2,
    "hold": 2, "release_holds": 1, "wait": 1,
}  # fmt: skip
ACTS = [act for act, number in _ACTS.items() for _ in range(number)]
_WITH_TASKS = "EXISTS (SELECT FROM extraction_tasks WHERE job_run_id = run.id AND status = 'completed')"
_WITHOUT_RUNS = "NOT EXISTS (SELECT FROM job_runs WHERE job_id = job.id)"


class Acts:
    """All that may happen to a service. Each takes a number, by which it finds whom it concerns, and a form."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.clock = service.clock

    def live(self, seed: int, acts: int) -> None:
        """So many things, one after the other: each with one of what there is, and in one of its forms."""
        random = Random(seed)  # noqa: S311  nothing is secret here
        for _ in range(acts):
            act, number, form = random.choice(ACTS), random.randrange(7), random.randrange(12)
            getattr(self, act)(number, form)

    def sign_up(self, number: int, form: int) -> None:
        if len(self.service.users()) < 3:
            self.service.sign_up()
        for user in _one(self.service.users(), number):
            self.service.keep_an_old_counter(user, (1, 12, 13, 14, 30)[form % 5], current=form % 2 == 0)

    def delete_user(self, number: int, form: int) -> None:
        users = self.service.users()
        if len(users) > 2 and form % 3 == 0:
            self.service.delete_user(_one(users, number)[0])

    def leave_scratch(self, number: int, _: int) -> None:
        for user in _one(self.service.users(), number):
            self.service.leave_scratch(user)

    def begin_a_job(self, number: int, form: int) -> None:
        for user in _one(self.service.users(), number):
            run = self.service.new_job(user, keep=form % 3 == 0)
            self._with_files(run, 1 + form % 4)
            if form % 3 == 1:
                self.service.automate(self.service.jobs()[-1])

    def do_a_job(self, number: int, form: int) -> None:
        """From the beginning to the end."""
        for user in _one(self.service.users(), number):
            self._whole_job(user, form % 3 == 0, form % 4, ENDS[form // 3], together=form % 2 == 0)
            if form % 4 == 2:
                self.service.automate(self.service.jobs()[-1])

    def begin_a_run(self, number: int, form: int) -> None:
        for job in _one(self.service.jobs(), number):
            self._with_files(self.service.new_run(job), form % 3)

    def wizard_step(self, number: int, _: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.wizard_step(run)

    def submit(self, number: int, form: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.submit(run, together=form % 2 == 0, done=form % 4)

    def end(self, number: int, form: int) -> None:
        for run in _one(self.service.runs("status = 'in_progress'"), number):
            self.service.end(run, ENDS[form % 4])

    def append(self, number: int, form: int) -> None:
        """To a run that had a result; the older one, or both, may not be kept for long."""
        for run in _one(self.service.runs(_WITH_TASKS), number):
            appended = self.service.append(run)
            self._with_files(appended, form % 3)
            if form % 2:
                self.service.submit(appended, together=False, done=form % 3)
                self.service.end(appended, ENDS[form // 3])
            for opted_out in (run, appended)[: form // 4]:
                self.service.opt_out(opted_out)

    def append_and_forget(self, number: int, form: int) -> None:
        """A draft that waits on an opted-out run's files, until it is given up itself."""
        for run in _one(self.service.runs(_WITH_TASKS), number):
            self._with_files(self.service.append(run), form % 2)
            self.service.opt_out(run)
        self.give_up_idle_drafts(number, form=1)
        self.clock.advance(days=(0, 31)[form % 3 > 0])

    def automate_and_forget(self, number: int, form: int) -> None:
        """A draft that an automation needs, with imports, and that is marked as one to delete."""
        for user in _one(self.service.users(), number):
            run = self.service.new_job(user, keep=form % 2 == 0)
            self.service.automate(self.service.jobs()[-1])
            self.service.import_from_drive(run, number % 2, finished=True)
            self.convert(0, 0)
        self.give_up_idle_drafts(number, form=1)
        self.clock.advance(days=(0, 31)[form % 3 > 0])

    def import_again(self, number: int, form: int) -> None:
        """A Drive file whose object still waits to go, imported again; perhaps taken out again at once."""
        runs, names = self.service.runs(), self.service.objects_to_go("imports/%")
        for name in _one([name for name in names if name.split("/")[1] in runs], number):
            self.service.import_as(name.split("/")[1], name, finished=form % 4 > 0)
            if form % 3 == 0:
                self.service.remove(self.service.files(f"gcs_object_name = '{name}'")[0])

    def opt_out(self, number: int, _: int) -> None:
        for run in _one(self.service.runs("persist_data"), number):
            self.service.opt_out(run)

    def give_up_idle_drafts(self, _: int, form: int) -> None:
        self.clock.advance(days=(0, 31)[form % 2])
        self.service.give_up_idle_drafts()

    def delete_job(self, number: int, form: int) -> None:
        jobs = self.service.jobs()
        if len(jobs) > 2 and form % 3 == 0:
            self.service.delete_job(_one(jobs, number)[0])

    def export(self, number: int, form: int) -> None:
        for run in _one(self.service.runs(), number):
            self.service.export(run, drive=form % 2 == 0)

    def upload(self, number: int, form: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.upload(run, ("plain", "zip", "ZIP", "broken", "member")[form % 5])

    def unpack(self, number: int, form: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.unpack(self.service.upload(run, ("zip", "ZIP")[form % 2]), members=form % 3)

    def convert(self, number: int, _: int) -> None:
        for file in _one(self.service.files("status <> 'uploading'"), number):
            self.service.convert(file)

    def import_a_file(self, number: int, form: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.import_from_drive(run, form % 2, finished=form % 5 > 0)
            if form % 3 == 0:
                self.service.remove(self.service.files(f"file.job_run_id = '{run}'")[-1])

    def remove(self, number: int, form: int) -> None:
        """Taken out of a draft, and perhaps imported again under the same name."""
        where = "file.source_type = 'drive'" if form % 2 else "true"
        for run in _one(self.service.drafts(), number):
            for file in _one(self.service.files(f"file.job_run_id = '{run}' AND {where}"), form):
                self.service.remove(file)
            if form % 3:
                self.service.import_from_drive(run, form // 2 % 2, finished=True)

    def automate(self, number: int, _: int) -> None:
        """Jobs that were left without runs come first."""
        for job in _one(self.service.jobs(_WITHOUT_RUNS) or self.service.jobs(), number):
            self.service.automate(job)

    def stop_automating(self, number: int, form: int) -> None:
        for automation in _one(self.service.automations(), number)[: form % 2]:
            self.service.stop_automating(automation)

    def fire(self, number: int, form: int) -> None:
        for automation in _one(self.service.automations(), number):
            self.service.fire(automation, form % 3, submitted=form % 2 == 0)

    def hold(self, number: int, form: int) -> None:
        scope, find = (("user", self.service.users), ("job", self.service.jobs), ("run", self.service.runs))[form % 3]
        for subject in _one(find(), number):
            until = self.clock.now() + timedelta(days=20) if form % 2 else None
            self.service.hold(scope, subject, until)

    def release_holds(self, *_: int) -> None:
        self.service.release_holds()

    def wait(self, _: int, form: int) -> None:
        self.clock.advance(days=(1, 6, 8, 15, 31)[form % 5])

    # ---- how

    def _whole_job(self, user: str, keep: bool, files: int, how: str, together: bool) -> None:
        run = self.service.new_job(user, keep)
        self._with_files(run, files)
        self.service.submit(run, together, done=max(0, files - (how == "partially_completed")))
        self.service.end(run, how)

    def _with_files(self, run: str, files: int) -> None:
        for number in range(files):
            if number == 2:
                self.service.import_from_drive(run, number % 2, finished=True)
            else:
                file = self.service.upload(run, "plain")
                if number:
                    self.service.convert(file)


def _one(ids: Sequence[str], number: int) -> Sequence[str]:
    """One of them, counted from the newest; none if there is none."""
    return [ids[-1 - number % len(ids)]] if ids else []
