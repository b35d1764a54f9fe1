import contextlib
import math
import shutil
import socket
import sys
import threading
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from av.audio.stream import AudioStream

from kvw import audio
from kvw.errors import AudioError

Samples = npt.NDArray[np.floating]

EXAMPLE = Path(__file__).parents[1] / "example" / "target.wav"
TRAIN = Path(__file__).parents[2] / "shared" / "speech" / "train"


@pytest.fixture(scope="module")
def speech():
    """25 s of clean speech, (n,) float32 at 24 kHz, digital silence at both ends."""
    samples, rate_hz = soundfile.read(EXAMPLE, dtype="float32")
    assert rate_hz == audio.SAMPLE_RATE_HZ
    return samples


def sine(
    frequency_hz: float = 440, duration_s: float = 6, rate_hz: int = 24_000, amplitude: float = 0.5
) -> Samples:
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(duration_s * rate_hz) / rate_hz)


def fitted_sine(
    samples: Samples, frequency_hz: float, rate_hz: int = 24_000
) -> tuple[float, float]:
    """Amplitude of the sine of this frequency and the RMS of all else (least squares)."""
    t = 2 * np.pi * frequency_hz * np.arange(len(samples)) / rate_hz
    basis = np.stack([np.sin(t), np.cos(t)], axis=1)
    parts, *_ = np.linalg.lstsq(basis, samples, rcond=None)
    return float(np.hypot(*parts)), float(np.std(samples - basis @ parts))


def write_container(
    path: Path,
    samples: Samples,
    rate_hz: int,
    codec: str | None,
    video: bool = False,
) -> Path:
    """Encodes (n, channels) samples through FFmpeg, if wanted beside a small video."""
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w") as container:
        # All tracks must be there before the first packet.
        sound = container.add_stream(codec, rate=rate_hz, layout=layout) if codec else None
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
            for _ in range(int(10 * len(samples) / rate_hz)):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        if isinstance(sound, AudioStream):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T, dtype=np.float32), format="fltp", layout=layout
            )
            frame.sample_rate = rate_hz
            resampler = av.AudioResampler(format=sound.format, layout=layout, rate=rate_hz)
            for part in resampler.resample(frame):
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path


def load_samples(
    tmp_path: Path, samples: Samples, rate_hz: int = 24_000, subtype: str = "PCM_16"
) -> audio.Recording:
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return audio.load(path)


def warnings_of(
    tmp_path: Path, samples: Samples, rate_hz: int = 24_000, subtype: str = "PCM_16"
) -> str:
    return " ".join(load_samples(tmp_path, samples, rate_hz, subtype).warnings)


# Formats


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("x.wav", "PCM_U8", 0.06),
        ("x.wav", "PCM_16", 1e-4),
        ("x.wav", "PCM_24", 1e-5),
        ("x.wav", "FLOAT", 1e-6),
        ("x.flac", "PCM_16", 1e-4),
        ("x.aiff", "PCM_16", 1e-4),
        ("x.ogg", "VORBIS", 0.1),
        ("x.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats_of_soundfile_come_back_sample_by_sample(
    tmp_path, speech, name, subtype, tolerance
):
    path = tmp_path / name
    soundfile.write(path, speech, 24_000, subtype=subtype)
    recording = audio.load(path)
    assert recording.audio.dtype == np.float32
    assert recording.audio.shape == speech.shape
    assert recording.path == path
    assert (recording.source_rate_hz, recording.n_channels) == (24_000, 1)
    assert recording.duration_s == len(speech) / 24_000
    assert np.sqrt(np.mean((recording.audio - speech) ** 2)) < tolerance * speech.std()


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "gain"),
    [
        ("x.m4a", "aac", 44_100, 1),
        ("x.webm", "libopus", 48_000, 1),
        ("x.mkv", "pcm_s16le", 22_050, 1),
        ("x.mka", "libmp3lame", 44_100, 0.95),  # LAME leaves this headroom at 128 kbit/s
        ("x.mp4", "aac", 48_000, 1),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_containers_keep_frequency_and_level(tmp_path, name, codec, rate_hz, gain, n_channels):
    tone = sine(997, rate_hz=rate_hz)[:, None].repeat(n_channels, axis=1)
    recording = audio.load(write_container(tmp_path / name, tone, rate_hz, codec))
    assert (recording.source_rate_hz, recording.n_channels) == (rate_hz, n_channels)
    assert recording.duration_s == pytest.approx(6, abs=0.05)  # codecs pad to whole frames
    amplitude, rest = fitted_sine(recording.audio[24_000:96_000], 997)
    assert amplitude == pytest.approx(0.5 * gain, abs=0.01)
    assert rest < 0.02


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_the_sound_of_a_video_is_read(tmp_path, name):
    path = write_container(tmp_path / name, sine()[:, None], 24_000, "aac", video=True)
    recording = audio.load(path)
    assert recording.duration_s == pytest.approx(6, abs=0.1)
    assert fitted_sine(recording.audio[24_000:96_000], 440)[0] == pytest.approx(0.5, abs=0.01)


def test_an_mp3_without_a_length_in_its_header_is_read_to_its_end(tmp_path):
    # A quiet start makes the first frames short: a length guessed from them is a third of the true.
    rng = np.random.default_rng(0)
    quiet, loud = 1e-3 * rng.standard_normal(44_100 * 4), 0.2 * rng.standard_normal(44_100 * 8)
    path = tmp_path / "x.mp3"
    with av.open(str(path), "w", options={"write_xing": "0"}) as container:
        stream = container.add_stream(
            "libmp3lame",
            rate=44_100,
            layout="mono",
            options={"flags": "+qscale", "global_quality": "472"},
        )
        frame = av.AudioFrame.from_ndarray(
            np.concatenate([loud, quiet])[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44_100
        for part in av.AudioResampler(format=stream.format).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    assert audio.load(path).duration_s == pytest.approx(12, abs=0.1)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"])
def test_every_sample_format_of_ffmpeg_has_the_same_scale(tmp_path, codec):
    tone = np.stack([sine(amplitude=0.9), sine(amplitude=0.1)], axis=1)
    recording = audio.load(write_container(tmp_path / "x.mkv", tone, 24_000, codec))
    amplitude, rest = fitted_sine(recording.audio, 440)
    assert amplitude == pytest.approx(0.5, abs=1e-3)
    assert rest < 5e-3


def test_a_name_with_a_colon_is_a_file_and_not_a_scheme(tmp_path, monkeypatch):
    if sys.platform == "win32":
        pytest.skip("no colons in file names")
    write_container(tmp_path / "x.m4a", sine()[:, None], 24_000, "aac")
    shutil.copy(tmp_path / "x.m4a", tmp_path / "http:x.m4a")
    monkeypatch.chdir(tmp_path)
    assert audio.load(Path("http:x.m4a")).duration_s == pytest.approx(6, abs=0.1)


# Resampling and channels


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_frequency_level_and_length(tmp_path, rate_hz):
    path = tmp_path / "x.wav"
    soundfile.write(path, sine(1000, rate_hz=rate_hz), rate_hz, subtype="FLOAT")
    recording = audio.load(path)
    assert recording.source_rate_hz == rate_hz
    assert len(recording.audio) == 6 * 24_000
    amplitude, rest = fitted_sine(recording.audio[2400:-2400], 1000)
    assert amplitude == pytest.approx(0.5, rel=1e-4)
    assert rest < 1e-4


def test_resampling_lets_nothing_fold_back(tmp_path):
    # 15 kHz lies above the new Nyquist frequency and would fold to 9 kHz.
    both = sine(1000, rate_hz=48_000) + sine(15_000, rate_hz=48_000)
    path = tmp_path / "x.wav"
    soundfile.write(path, both, 48_000, subtype="FLOAT")
    middle = audio.load(path).audio[2400:-2400]
    assert fitted_sine(middle, 9000)[0] < 1e-5
    assert fitted_sine(middle, 1000)[0] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("n_channels", [2, 6])
def test_channels_are_averaged(tmp_path, n_channels):
    rng = np.random.default_rng(0)
    channels = rng.uniform(-0.5, 0.5, (48_000, n_channels)).astype(np.float32)
    recording = load_samples(tmp_path, channels, subtype="FLOAT")
    assert recording.n_channels == n_channels
    np.testing.assert_allclose(recording.audio, channels.mean(axis=1), atol=1e-6)


# Bad input


def bad(path: Path) -> str:
    """The one sentence that a bad file is refused with."""
    with pytest.raises(AudioError) as caught:
        audio.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert path.name in message
    return message


def test_a_missing_file(tmp_path):
    assert "There is no file" in bad(tmp_path / "missing.wav")


def test_a_folder(tmp_path):
    assert "is a folder" in bad(tmp_path)


def test_an_empty_file(tmp_path):
    (tmp_path / "x.wav").touch()
    assert "is empty (0 bytes)" in bad(tmp_path / "x.wav")


def test_a_file_that_is_no_file(tmp_path):
    if not Path("/dev/zero").exists():
        pytest.skip("no device files")
    assert "not a regular file" in bad(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["x.txt", "x.wav", "x.mp3", "x.raw", "x.m3u8"])
@pytest.mark.parametrize("content", [b"plain text, no audio\n" * 99, bytes(range(256)) * 40])
def test_files_that_are_no_audio(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = bad(tmp_path / name)
    assert "not readable as audio" in message or "no audio track" in message
    assert "WAV, FLAC, MP3 or M4A" in message


def test_a_video_without_sound(tmp_path):
    path = write_container(tmp_path / "x.mp4", sine()[:, None], 24_000, codec=None, video=True)
    assert "no audio track" in bad(path)


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 24_000)
    assert "no audio samples" in bad(tmp_path / "x.wav")


@pytest.mark.parametrize(("n_samples", "ok"), [(23_999, False), (24_000, True)])
def test_a_second_is_the_least(tmp_path, n_samples, ok):
    soundfile.write(tmp_path / "x.wav", sine()[:n_samples], 24_000)
    if ok:
        assert len(audio.load(tmp_path / "x.wav").audio) == n_samples
    else:
        assert "at least 1 s is needed" in bad(tmp_path / "x.wav")


@pytest.mark.parametrize("name", ["x.wav", "x.mka"])
def test_ten_minutes_are_the_most(tmp_path, name):
    tone = sine(100, duration_s=600.5, rate_hz=8000)
    if name == "x.wav":
        soundfile.write(tmp_path / name, tone, 8000)
    else:
        write_container(tmp_path / name, tone[:, None], 8000, "pcm_s16le")
    assert "longer than 10 minutes" in bad(tmp_path / name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = sine()
    samples[1000] = value
    soundfile.write(tmp_path / "x.wav", samples, 24_000, subtype="FLOAT")
    assert "not finite" in bad(tmp_path / "x.wav")


@pytest.mark.parametrize("level", [0.0, 2 / 32768])
def test_digital_silence(tmp_path, level):
    dither = np.random.default_rng(0).uniform(-level, level, 48_000)
    soundfile.write(tmp_path / "x.wav", dither, 24_000)
    assert "digital silence" in bad(tmp_path / "x.wav")


def test_channels_that_cancel_each_other(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.stack([sine(), -sine()], axis=1), 24_000)
    assert "cancel each other" in bad(tmp_path / "x.wav")


@pytest.mark.parametrize("name", ["x.wav", "x.aiff", "x.flac", "x.m4a", "x.webm", "x.mka"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_files_that_are_cut_off(tmp_path, speech, name, share):
    path = tmp_path / name
    codec = {"x.m4a": "aac", "x.webm": "libopus", "x.mka": "pcm_s16le"}.get(name)
    if codec:
        write_container(path, speech[:, None], 24_000, codec)
    else:
        soundfile.write(path, speech, 24_000)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = bad(path)
    assert "cut off" in message or "damaged" in message


def test_a_streamed_wav_of_unknown_length_is_read(tmp_path):
    # Programs that write to a pipe put 2**32 - 1 where the size of the data belongs.
    path = tmp_path / "x.wav"
    soundfile.write(path, sine(), 24_000)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert audio.load(path).duration_s == 6


@pytest.mark.parametrize(("n_damaged", "ok"), [(1, True), (400, False)])
def test_few_damaged_packets_are_skipped_and_many_refused(tmp_path, speech, n_damaged, ok):
    path = tmp_path / "x.mp3"
    soundfile.write(path, speech, 24_000)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for start in rng.integers(2000, len(content) - 500, n_damaged):
        content[start : start + 200] = rng.bytes(200)
    path.write_bytes(content)
    if ok:
        assert audio.load(path).duration_s == pytest.approx(len(speech) / 24_000, abs=0.5)
    else:
        assert "damaged" in bad(path)


def test_a_codec_that_ffmpeg_does_not_know(tmp_path):
    path = write_container(tmp_path / "x.mka", sine()[:, None], 24_000, "pcm_s16le")
    content = path.read_bytes()
    assert content.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    assert "does not know" in bad(path)


def test_any_damage_is_an_audio_error_or_none(tmp_path, speech):
    rng = np.random.default_rng(0)
    for name, codec in [("x.m4a", "aac"), ("x.webm", "libopus"), ("x.wav", ""), ("x.ogg", "")]:
        path = tmp_path / name
        if codec:
            write_container(path, speech[:72_000, None], 24_000, codec)
        else:
            soundfile.write(path, speech[:72_000], 24_000)
        whole = path.read_bytes()
        n_refused = 0
        for _ in range(25):
            content = bytearray(whole)
            for position in rng.integers(0, 400, 20):
                content[position] = rng.integers(256)
            path.write_bytes(content)
            try:
                assert np.isfinite(audio.load(path).audio).all()
            except AudioError:
                n_refused += 1
        assert n_refused > 0


def test_a_playlist_does_not_reach_the_network(tmp_path):
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)

        def listen():
            with contextlib.suppress(TimeoutError):
                calls.append(server.accept()[1])

        listener = threading.Thread(target=listen)
        listener.start()
        path = tmp_path / "x.m3u8"
        path.write_text(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"
            f"http://127.0.0.1:{server.getsockname()[1]}/x.ts\n#EXT-X-ENDLIST\n"
        )
        bad(path)
        listener.join()
    assert calls == []


# Warnings


def test_the_example_is_a_good_target():
    recording = audio.load(EXAMPLE)
    assert recording.warnings == ()
    assert 20 <= recording.duration_s <= 30


@pytest.mark.parametrize(
    ("duration_s", "word"), [(4.9, "lasts only 4.9 s"), (5.1, ""), (59, ""), (61, "lasts 61 s")]
)
def test_duration(tmp_path, speech, duration_s, word):
    warnings = warnings_of(tmp_path, np.resize(speech, int(duration_s * 24_000)))
    assert word in warnings
    assert ("20 to 30 s of one speaker" in warnings) == bool(word)


@pytest.mark.parametrize(("rate_hz", "warned"), [(8000, True), (16_000, False)])
def test_a_narrow_band(tmp_path, speech, rate_hz, warned):
    import soxr

    narrow = soxr.resample(speech, 24_000, rate_hz)
    assert ("sample rate is 8000 Hz" in warnings_of(tmp_path, narrow, rate_hz)) == warned


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_clipping(tmp_path, speech, subtype, gain):
    peak = np.abs(speech).max()
    whole = speech / peak * gain
    clipped = np.clip(speech, -0.6 * peak, 0.6 * peak) / (0.6 * peak) * gain
    assert "clipped" not in warnings_of(tmp_path, whole * 0.99, subtype=subtype)
    assert "clipped" in warnings_of(tmp_path, clipped, subtype=subtype)


def test_clipping_is_seen_in_one_channel_of_two_and_before_resampling(tmp_path, speech):
    import soxr

    wide = soxr.resample(speech, 24_000, 44_100)
    channels = np.stack([0.3 * wide, np.clip(4 * wide, -1, 1)], axis=1)
    assert "clipped" in warnings_of(tmp_path, channels, 44_100)


def test_clipping_is_seen_through_a_lossy_format(tmp_path, speech):
    path = tmp_path / "x.mp3"
    soundfile.write(path, np.clip(3 * speech, -1, 1), 24_000)
    assert "clipped" in " ".join(audio.load(path).warnings)


def test_a_peak_at_full_scale_is_not_clipping(tmp_path, speech):
    one_peak = speech.copy()
    one_peak[np.argmax(one_peak)] = 1.0
    assert "clipped" not in warnings_of(tmp_path, one_peak)
    # A sine of 100 Hz at 96 kHz has flat but round tops.
    assert "clipped" not in warnings_of(tmp_path, sine(100, 6, 96_000, 0.999), 96_000)
    # The steps of 16 bits make the tops of a quiet sine flat, which is no fault of the level.
    assert "clipped" not in warnings_of(tmp_path, sine(100, 6, 96_000, 0.01), 96_000)


def noise_at(speech: Samples, snr_db: float, kind: str = "white") -> audio.Audio:
    """Speech with noise so many dB below the mean power of its active frames (within 30 dB)."""
    frames = speech[: len(speech) // 480 * 480].reshape(-1, 480).astype(np.float64)
    power = frames.var(axis=1)
    active = power[power > power.max() / 1000].mean()
    noise = np.random.default_rng(0).standard_normal(len(speech))
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        frequency = np.fft.rfftfreq(len(noise), 1 / 24_000)
        # Below 50 Hz a microphone and the estimate hear little.
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 50)), len(noise))
    noise *= np.sqrt(active / 10 ** (snr_db / 10)) / noise.std()
    return (speech + noise).astype(np.float32)


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [5, 10, 15, 20, 25, 30])
def test_the_estimate_follows_a_known_signal_to_noise_ratio(speech, kind, snr_db):
    estimate = audio.signal_to_noise_db(noise_at(speech, snr_db, kind))
    assert estimate == pytest.approx(snr_db, abs=4)


def test_the_estimate_falls_as_the_noise_rises_and_ignores_the_level(speech):
    estimates = [audio.signal_to_noise_db(noise_at(speech, snr_db)) or 0 for snr_db in (30, 20, 10)]
    assert estimates == sorted(estimates, reverse=True)
    noisy = noise_at(speech, 20)
    assert audio.signal_to_noise_db(0.1 * noisy) == pytest.approx(
        audio.signal_to_noise_db(noisy), abs=0.1
    )


def test_digital_silence_around_noisy_speech_does_not_hide_the_noise(speech):
    noisy = noise_at(speech, 10)
    padded = np.concatenate([np.zeros(48_000, np.float32), noisy, np.zeros(48_000, np.float32)])
    assert audio.signal_to_noise_db(padded) == pytest.approx(
        audio.signal_to_noise_db(noisy), abs=0.2
    )


def test_a_steady_sound_is_its_own_noise_and_too_little_sound_tells_nothing():
    steady = audio.signal_to_noise_db(sine(1000).astype(np.float32))
    assert steady is not None
    assert steady < -10
    short = np.zeros(48_000, np.float32)
    short[:9600] = sine()[:9600]
    assert audio.signal_to_noise_db(short) is None


@pytest.mark.parametrize(("snr_db", "warned"), [(10, True), (25, False)])
def test_noise(tmp_path, speech, snr_db, warned):
    assert ("noisy" in warnings_of(tmp_path, 0.5 * noise_at(speech, snr_db))) == warned


def vowel(speech: Samples) -> int:
    """A sample in the loudest 20 ms of the speech, after its first 10 s."""
    frames = speech[240_000:480_000].reshape(-1, 480)
    return 240_000 + 480 * int(frames.var(axis=1).argmax()) + 240


def test_abrupt_edges(tmp_path, speech):
    cut = vowel(speech)
    assert "ends abruptly" in warnings_of(tmp_path, speech[:cut])
    assert "starts abruptly" in warnings_of(tmp_path, speech[cut:])
    assert "abruptly" not in warnings_of(tmp_path, speech)


def test_a_faded_or_padded_edge_is_not_abrupt(tmp_path, speech):
    faded = speech[: vowel(speech)].copy()
    faded[-2400:] *= np.linspace(1, 0, 2400, dtype=np.float32)
    assert "abruptly" not in warnings_of(tmp_path, faded)


def test_each_warning_is_one_sentence(tmp_path, speech):
    bad_speech = np.clip(5 * noise_at(speech, 5), -1, 1)[: vowel(speech)][-100_000:]
    warnings = load_samples(tmp_path, bad_speech, 8000).warnings
    assert len(warnings) == 3
    for warning in warnings:
        assert warning.startswith("It")
        assert warning.endswith(".")
        assert "\n" not in warning


@pytest.mark.slow
@pytest.mark.skipif(not TRAIN.exists(), reason="the LibriSpeech clips are not here")
def test_false_alarms_on_audiobooks_are_rare():
    warnings = [w for path in sorted(TRAIN.glob("*.flac")) for w in audio.load(path).warnings]
    assert sum("clipped" in w for w in warnings) == 0
    assert sum("noisy" in w for w in warnings) <= 8  # of 251; these are noisy
    assert sum("abruptly" in w for w in warnings) <= 4


# Saving


def test_save_and_load_are_inverse(tmp_path, speech):
    audio.save(tmp_path / "new" / "x.wav", speech)
    info = soundfile.info(tmp_path / "new" / "x.wav")
    assert (info.format, info.subtype, info.samplerate, info.channels) == (
        "WAV",
        "PCM_16",
        24_000,
        1,
    )
    np.testing.assert_allclose(
        audio.load(tmp_path / "new" / "x.wav").audio, speech, atol=1.01 / 32768
    )


def test_save_writes_wav_whatever_the_suffix_and_the_given_rate(tmp_path):
    audio.save(tmp_path / "x", sine(rate_hz=16_000), 16_000)
    info = soundfile.info(tmp_path / "x")
    assert (info.format, info.samplerate) == ("WAV", 16_000)


def test_save_scales_down_rather_than_clips(tmp_path):
    audio.save(tmp_path / "x.wav", sine(amplitude=2.5))
    samples = soundfile.read(tmp_path / "x.wav")[0]
    np.testing.assert_allclose(samples, sine(amplitude=1.0), atol=2 / 32768)
    audio.save(tmp_path / "y.wav", sine(amplitude=0.1))
    np.testing.assert_allclose(
        soundfile.read(tmp_path / "y.wav")[0], sine(amplitude=0.1), atol=2 / 32768
    )


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        ([0.0, math.nan], "not finite"),
        ([math.inf], "not finite"),
        ([], "shape (n,)"),
        ([[0.1, 0.2]], "shape (n,)"),
    ],
)
def test_save_refuses_what_is_no_audio_and_leaves_the_old_file(tmp_path, samples, word):
    path = tmp_path / "x.wav"
    path.write_bytes(b"old")
    with pytest.raises(AudioError, match=word.replace("(", r"\(").replace(")", r"\)")):
        audio.save(path, np.array(samples))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_to_a_place_that_takes_no_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AudioError, match="cannot be written"):
        audio.save(tmp_path / "file" / "x.wav", sine())
