"""Conversations by name: the latest in memory, the others on disk, from where they are gone on with.

With a folder, a conversation is the session `FOLDER/NAME` (`pyllm.stream.session`) and is saved at the end of every
turn, so that leaving memory costs nothing and a kill loses at most the running turn. Without one, it is written to a
temporary folder when it leaves memory, comes back from there, and ends with the server.

Everything here is of the worker's thread.
"""

import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyllm.errors import InputError, PrerequisiteError, SettingError, reason_of
from pyllm.stream.chat import Chat
from pyllm.stream.log import METADATA
from pyllm.stream.serving.refusals import Refusal, failed, unknown_conversation, wrong
from pyllm.stream.session import LOCK, Session

_log = logging.getLogger(__name__)

_GOING = ".deleted-"
"""Begins the names of folders that are being removed; no conversation's name begins with a dot."""

MakeChat = Callable[[str | None, str | None, Session | None], Chat]
"""Makes a chat from its conversation's name, its system text and its session; each may be None."""


class Conversations:
    """The conversations of a server.

    Args:
        make: Makes chats.
        facts: What sessions are made with, from `session_facts`.
        folder: Where conversations last; None keeps them as long as the server runs.
        most: Most conversations in memory.

    Raises:
        PrerequisiteError: The folder cannot be written.
    """

    def __init__(self, make: MakeChat, facts: dict[str, Any], *, folder: Path | None, most: int) -> None:
        self._make, self._facts, self._most = make, facts, most
        self._chats: OrderedDict[str, Chat] = OrderedDict()
        """Least recently used first."""
        self._busy: set[str] = set()
        self._lost: set[str] = set()
        """Broke in the middle of a turn, with nothing on disk to go on from."""
        self._lasts = folder is not None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="pyllm-serve-")
            folder = Path(self._temporary.name)
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"{_GOING}*"):
                shutil.rmtree(path)
            probe = folder / f"{_GOING}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise PrerequisiteError(f"folder `{folder}` cannot be written: {reason_of(error)}") from error

    @property
    def in_memory(self) -> int:
        """How many conversations are in memory."""
        return len(self._chats)

    def take(self, name: str, system: str | None) -> Chat:
        """A conversation for a turn, from memory, from disk, or a new one. Give it back or drop it.

        Args:
            name: Its name.
            system: The system text of the request; a conversation that was begun must have been begun with it.

        Raises:
            Refusal: It cannot be gone on with, or not so.
        """
        if name in self._lost:
            raise Refusal(
                409,
                f"conversation `{name}` broke off in the middle of a turn, and nothing of it is left; delete it first",
                code="conversation_lost",
                param="conversation_id",
            )
        chat = self._chats.get(name) or self._open(name, system)
        if system is not None and chat.turns and system != chat.system:
            raise wrong(f"conversation `{name}` was begun with another system message", "messages")
        self._chats[name] = chat
        self._chats.move_to_end(name)
        self._busy.add(name)
        return chat

    def begin(self, name: str) -> None:
        """Let the first turn of a conversation that is to last be saved; call it when nothing is left to be refused.

        Raises:
            Refusal: Its folder cannot be used.
        """
        chat = self._chats[name]
        if self._lasts and chat.session is None:
            chat.session = self._session(name)
            # The session syncs what is in its folder; the folder itself is new too.
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def give_back(self, name: str) -> None:
        """The turn of a conversation has ended as it should, or did not begin."""
        self._busy.discard(name)
        chat = self._chats[name]
        self._chats.move_to_end(name)
        if not chat.turns:  # nothing was ever said
            self._forget(name)

    def drop(self, name: str) -> None:
        """The turn of a conversation broke off: go on from what is on disk, if anything is."""
        self._busy.discard(name)
        chat = self._chats[name]
        if not self._lasts and chat.turns:
            self._lost.add(name)
        self._forget(name)

    def delete(self, name: str) -> None:
        """Remove a conversation from memory and disk.

        Raises:
            Refusal: There is none of that name, or it cannot be removed.
        """
        folder = self._folder / name
        known = name in self._chats or name in self._lost
        if not known and not (folder / METADATA).is_file():
            raise unknown_conversation(name)
        if name in self._chats:
            self._forget(name)
        self._lost.discard(name)
        if not (folder / METADATA).is_file():
            return
        try:
            with self._session(name):
                self._remove(folder)
        except Refusal as refusal:
            if refusal.code != "conversation_mismatch":
                raise
            self._remove(folder)  # made with something else, or damaged: it may go all the same

    def close(self) -> None:
        """Let other processes have the folder. What is to last is on disk already."""
        for chat in self._chats.values():
            if chat.session is not None:
                chat.session.close()
        self._chats.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _open(self, name: str, system: str | None) -> Chat:
        self._make_room()
        if not (self._folder / name / METADATA).is_file():
            return self._new(name, system)
        session = self._session(name)
        try:
            chat = self._make(name, None, session)
        except (InputError, SettingError) as error:
            session.close()
            _log.warning("%s", error.message)
            raise self._mismatch(name) from error
        if not self._lasts:
            # Its next stay on disk is a new one.
            chat.session = None
            session.close()
            self._remove(self._folder / name)
        return chat

    def _new(self, name: str, system: str | None) -> Chat:
        try:
            return self._make(name, system, None)
        except (InputError, SettingError) as error:
            raise wrong(error.message, "messages") from error

    def _session(self, name: str) -> Session:
        try:
            return Session(self._folder / name, self._facts)
        except (SettingError, InputError) as error:
            _log.warning("%s", error.message)
            raise self._mismatch(name) from error
        except PrerequisiteError as error:
            _log.warning("%s", error.message)
            raise Refusal(
                409,
                f"conversation `{name}` cannot be opened; another program may have it open",
                code="conversation_in_use",
                param="conversation_id",
            ) from error

    def _mismatch(self, name: str) -> Refusal:
        return Refusal(
            409,
            f"conversation `{name}` was made with another model or other settings, or is damaged; the server's log"
            " says what differs",
            code="conversation_mismatch",
            param="conversation_id",
        )

    def _make_room(self) -> None:
        """Let those that were used longest ago leave memory.

        Raises:
            Refusal: One cannot be written to disk; it stays then.
        """
        idle = [name for name in self._chats if name not in self._busy]
        for name in idle[: max(0, len(self._chats) + 1 - self._most)]:
            chat = self._chats[name]
            if not self._lasts:
                try:
                    with self._session(name) as session:
                        chat.save_to(session)
                except PrerequisiteError as error:
                    _log.warning("%s", error.message)
                    raise failed("a conversation cannot be written to disk to make room") from error
            _log.debug("conversation leaves memory")
            self._forget(name)

    def _forget(self, name: str) -> None:
        session = self._chats.pop(name).session
        if session is None:
            return
        session.close()
        if session.is_new:  # nothing was saved: only the lock is there
            folder = self._folder / name
            (folder / LOCK).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()

    def _remove(self, folder: Path) -> None:
        """Remove a conversation's folder: the name is free at once, and a kill leaves no half of it.

        Raises:
            Refusal: The system does not let it.
        """
        going = folder.with_name(f"{_GOING}{folder.name}")
        try:
            folder.rename(going)
            shutil.rmtree(going)
        except OSError as error:
            _log.warning("folder `%s` cannot be removed: %s", folder, reason_of(error))
            raise failed("the conversation cannot be removed from disk") from error
