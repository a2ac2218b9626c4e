"""Synthetic data sets with adjustable differences between domains; no files, no network."""

import math
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter, sosfilt
from scipy.spatial.transform import Rotation


def synthetic_images(
    rows: int = 60,
    num_classes: int = 4,
    num_domains: int = 4,
    image_size: int = 16,
    shift: float = 1.0,
    noise: float = 0.15,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generate colored gratings: the class is the orientation; the domain sets the tint and a rotation by ``shift``.

    With ``shift=0`` all domains look alike; with ``shift=1`` neighboring domains differ by one class's step of
    orientation, so that a model of one domain is confidently wrong on the next.

    Args:
        rows: Number of images of each class and domain.
        num_classes: C, number of classes.
        num_domains: D, number of domains.
        image_size: Side length in pixels.
        shift: Difference between domains, from 0 (none) to 1.
        noise: Standard deviation of pixel noise, in units of the full range.
        seed: Seed of phases and noise.

    Returns:
        Pixels (N, 3, image_size, image_size) uint8, classes (N,) and domains (N,) int64, N = rows * C * D.

    Example:
        >>> pixels, labels, domains = synthetic_images(rows=2, num_classes=3, num_domains=2)
        >>> pixels.shape, labels.tolist(), domains.tolist()
        ((12, 3, 16, 16), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    """
    generator = np.random.default_rng(seed)
    domains, labels, _ = (axis.reshape(-1) for axis in np.indices((num_domains, num_classes, rows)))
    angle = (labels + shift * domains) * math.pi / num_classes
    phase = generator.uniform(0, 2 * math.pi, len(labels))
    y, x = np.indices((image_size, image_size)) / image_size
    wave = np.sin(
        6 * math.pi * (x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]) + phase[:, None, None]
    )
    hue = 2 * math.pi * shift * domains / num_domains
    tint = 0.6 + 0.4 * np.cos(hue[:, None] + 2 * math.pi * np.arange(3) / 3)
    values = 0.5 + 0.4 * wave[:, None] * tint[:, :, None, None]
    values += generator.normal(0, noise, values.shape)
    return (values.clip(0, 1) * 255).astype(np.uint8), labels, domains


VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""First three formants in Hz of men's vowels (Peterson & Barney, JASA 1952, table II)."""


def synthetic_voices(
    num_speakers: int = 60,
    utterances: int = 4,
    duration_s: float = 4.0,
    sample_rate_hz: int = 16_000,
    session: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generate source-filter voices (glottal pulses through vocal tract resonances), for tests and demonstrations.

    A speaker has a pitch, a length of the vocal tract and deviations of each formant, and a way of voicing (open
    quotient, breath). An utterance has a melody and a sequence of vowels, half of the time its own vowel, and a
    session: the tilt of its spectrum, its level and its background noise, which grow with ``session``.

    Args:
        num_speakers: Number of speakers.
        utterances: Number of utterances of each speaker; the main vowel of utterance u of speaker s is s + u modulo 5.
        duration_s: Duration of each utterance.
        sample_rate_hz: Sample rate of the waveforms.
        session: Variability between utterances of one speaker, from 0 (none) to 1.
        seed: Seed of all draws; an utterance depends on its own index and speaker alone.

    Returns:
        Waveforms (N, T) float32 in [-1, 1], speakers (N,) and vowels (N,) int64, N = num_speakers * utterances, sorted
        by speaker.

    Example:
        >>> waveforms, speakers, vowels = synthetic_voices(num_speakers=2, utterances=3, duration_s=0.5)
        >>> waveforms.shape, speakers.tolist(), vowels.tolist()
        ((6, 8000), [0, 0, 0, 1, 1, 1], [0, 1, 2, 1, 2, 3])
    """
    speakers, numbers = (axis.reshape(-1) for axis in np.indices((num_speakers, utterances)))
    voices = [_Voice(np.random.default_rng([seed, speaker])) for speaker in range(num_speakers)]
    waveforms = np.empty((len(speakers), round(duration_s * sample_rate_hz)), np.float32)
    vowels = (speakers + numbers) % len(VOWELS)
    for row, (speaker, number) in enumerate(zip(speakers.tolist(), numbers.tolist(), strict=True)):
        generator = np.random.default_rng([seed, speaker, number])
        waveforms[row] = voices[speaker].synthesize(vowels[row], waveforms.shape[1], sample_rate_hz, session, generator)
    return waveforms, speakers, vowels


class _Voice:
    """One speaker."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.pitch_hz = math.exp(generator.uniform(math.log(85), math.log(250)))
        tract = (self.pitch_hz / 120) ** 0.2 * generator.uniform(0.88, 1.12)  # high voices have shorter tracts
        own = generator.normal(1, 0.07, (len(VOWELS), 3))
        higher = np.array([[3400, 4400]]) * generator.normal(1, 0.08, (1, 2))
        self.formants_hz = tract * np.hstack([np.array(list(VOWELS.values())) * own, higher.repeat(len(VOWELS), 0)])
        self.widths_hz = np.array([70, 90, 130, 200, 300]) * generator.uniform(0.7, 1.5, 5)
        self.liveliness, self.open_share = generator.uniform(0.04, 0.15), generator.uniform(0.4, 0.75)
        self.breath = math.exp(generator.uniform(math.log(0.005), math.log(0.08)))

    def synthesize(
        self, vowel: int, length: int, sample_rate_hz: int, session: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Return the (length,) samples of one utterance."""
        flow = self._glottis(length, sample_rate_hz, generator)
        spoken = np.empty(length)
        state = np.zeros((self.formants_hz.shape[1], 2))
        at = 0
        while at < length:
            now = vowel if generator.random() < 0.5 else int(generator.integers(len(VOWELS)))
            until = at + max(1, round(generator.uniform(0.12, 0.35) * sample_rate_hz))
            sections = _resonators(self.formants_hz[now], self.widths_hz, sample_rate_hz)
            spoken[at:until], state = sosfilt(sections, flow[at:until], zi=state)
            at = until
        time = np.arange(length, dtype=np.float32) / sample_rate_hz
        syllables = generator.uniform(2, 4)
        spoken *= 0.55 + 0.45 * np.sin(2 * math.pi * (syllables * time + generator.random()))
        tilt = session * generator.uniform(-0.6, 0.6)
        spoken = lfilter([1, tilt], [1], spoken) / np.abs(spoken).max()
        spoken += session * 10 ** generator.uniform(-2.5, -1.5) * generator.standard_normal(length, dtype=np.float32)
        level = 0.9 * 10 ** (-session * generator.uniform(0, 0.7))
        result: np.ndarray = (level * spoken / np.abs(spoken).max()).astype(np.float32)
        return result

    def _glottis(self, length: int, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """Return the derivative of Rosenberg's pulse (JASA 1971) with a varying pitch, and breath noise."""
        time = np.arange(length, dtype=np.float32) / sample_rate_hz
        melody = sum(
            generator.normal() * np.sin(2 * math.pi * (rate * time + generator.random())) for rate in (0.3, 0.8, 1.7)
        )
        phase = np.cumsum(self.pitch_hz / sample_rate_hz * np.exp(self.liveliness * melody), dtype=np.float64)
        place = np.linspace(0, 1, 4096, endpoint=False) / self.open_share
        opening = 0.5 * (1 - np.cos(math.pi * place / 0.7))
        closing = np.cos(math.pi / 2 * (place - 0.7) / 0.3)
        pulse = np.where(place < 0.7, opening, np.where(place < 1, closing, 0.0))
        flow = pulse[((phase + generator.random()) % 1 * len(pulse)).astype(np.int32)]
        noise = generator.standard_normal(length, dtype=np.float32)
        result: np.ndarray = np.diff(flow, prepend=flow[0]) + self.breath * 0.1 * noise
        return result


def _resonators(centers_hz: np.ndarray, widths_hz: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Return second-order sections of resonances with unit gain at 0 Hz (Klatt, JASA 1980)."""
    radius = np.exp(-math.pi * widths_hz / sample_rate_hz)
    first, second = -2 * radius * np.cos(2 * math.pi * centers_hz / sample_rate_hz), radius**2
    sections = np.zeros((len(centers_hz), 6))
    sections[:, 3] = 1
    within = centers_hz < 0.47 * sample_rate_hz
    sections[:, 0] = np.where(within, 1 + first + second, 1)
    sections[within, 4], sections[within, 5] = first[within], second[within]
    return sections


class Motion(NamedTuple):
    """Synthetic recordings of accelerometer and gyroscope.

    Attributes:
        samples: (R, T, 6) float32: three axes of acceleration in m/s², three of angular velocity in rad/s.
        activities: (R, T) int64.
        person: (R,) int64, index of the person.
        device: (R,) int64, index of the device.
        session: (R,) int64, index of the session; all devices of a person record a session together.
    """

    samples: np.ndarray
    activities: np.ndarray
    person: np.ndarray
    device: np.ndarray
    session: np.ndarray


def synthetic_motion(
    num_people: int = 4,
    num_devices: int = 2,
    num_activities: int = 4,
    sessions: int = 6,
    segment_s: float = 8.0,
    sample_rate_hz: float = 50.0,
    heterogeneity: float = 1.0,
    noise: float = 0.5,
    seed: int = 0,
) -> Motion:
    """Generate accelerometer and gyroscope recordings of people with several devices.

    Each session contains all activities. An activity is an orientation to gravity and three harmonics of a tempo on
    each axis. People differ in amplitude, tempo and the way they wear devices; devices differ in placement (a
    rotation), gain and noise. All differences grow with ``heterogeneity``: with 0 all people and devices are alike;
    with 1 a model of one of them is poor on most others.

    Args:
        num_people: Number of people.
        num_devices: Number of devices of each person.
        num_activities: Number of activities.
        sessions: Number of sessions of each person.
        segment_s: Duration of an activity in a session.
        sample_rate_hz: Sample rate of the samples.
        heterogeneity: Difference between people and devices, 0 or more.
        noise: Standard deviation of the first device's noise, in m/s²; a tenth of it in rad/s.
        seed: Seed of all draws; a session depends on its own index and person alone.

    Example:
        >>> motion = synthetic_motion(num_people=2, sessions=1, segment_s=1.0)
        >>> motion.samples.shape, motion.person.tolist(), motion.device.tolist()
        ((4, 200, 6), [0, 0, 1, 1], [0, 1, 0, 1])
    """
    person, session, device = (axis.reshape(-1) for axis in np.indices((num_people, sessions, num_devices)))
    length = round(segment_s * sample_rate_hz)
    time = np.arange(length) / sample_rate_hz
    shapes = np.random.default_rng([seed, 0])
    tempo_hz = np.geomspace(0.9, 2.0, num_activities)
    amplitude = shapes.normal(0, [[2.5], [1.2], [0.6]], (num_activities, 3, 6)) * [1, 1, 1, 0.4, 0.4, 0.4]
    phase = shapes.uniform(0, 2 * math.pi, (num_activities, 3, 6))
    posture = _rotations(shapes.normal(0, 0.35, (num_activities, 3))) @ [0, 0, 9.81]
    places = _rotations(heterogeneity * shapes.normal(0, 0.8, (num_devices, 3)))
    gains = np.exp(heterogeneity * 0.2 * shapes.normal(size=num_devices))
    samples = np.empty((len(person), num_activities * length, 6), np.float32)
    activities = np.empty(samples.shape[:2], np.int64)
    for row in range(0, len(person), num_devices):
        body = np.random.default_rng([seed, 1, person[row]])
        strength, pace = np.exp(heterogeneity * body.normal(0, [0.35, 0.2]))
        worn = _rotations(heterogeneity * body.normal(0, 0.35, 3))
        today = np.random.default_rng([seed, 2, person[row], session[row]])
        order = today.permutation(num_activities)
        angle = 2 * math.pi * (tempo_hz[order] * pace * today.normal(1, 0.03, num_activities))[:, None] * time
        angle += today.uniform(0, 2 * math.pi, (num_activities, 1))
        waves = np.sin(angle[:, None, :, None] * np.arange(1, 4)[:, None, None] + phase[order][:, :, None])
        moved = strength * (waves * amplitude[order][:, :, None]).sum(1)
        moved[..., :3] += posture[order][:, None]
        for number in range(num_devices):
            place, spread = places[number] @ worn, noise * (1 + heterogeneity * number)
            seen = gains[number] * np.concatenate([moved[..., :3] @ place.T, moved[..., 3:] @ place.T], -1)
            seen += today.normal(0, spread, seen.shape) * [1, 1, 1, 0.1, 0.1, 0.1]
            samples[row + number] = seen.reshape(-1, 6)
            activities[row + number] = np.repeat(order, length)
    return Motion(samples, activities, person, device, session)


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """Return (..., 3, 3) rotations about vectors (..., 3), by their lengths in radians."""
    result: np.ndarray = Rotation.from_rotvec(vectors).as_matrix()
    return result
