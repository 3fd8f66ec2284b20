"""Clips as arrays: decoding by ffmpeg, decoded clips kept on disk, frames drawn and augmented."""

from .cache import FrameCache, Frames, content_key
from .decoding import Media, probe, read_clip, read_media, read_sound, stream_frames
from .ffmpeg import PICTURES, SOUND_SUFFIXES, VIDEO_SUFFIXES, Probe, ffmpeg_version
from .sampling import augment, sample_frames

__all__ = ["PICTURES", "SOUND_SUFFIXES", "VIDEO_SUFFIXES", "FrameCache", "Frames", "Media", "Probe", "augment",
           "content_key", "ffmpeg_version", "probe", "read_clip", "read_media", "read_sound", "sample_frames",
           "stream_frames"]
