#!/bin/sh
# Speaks examples/audio/NN-VOICE-NAME.txt again, each with the flite voice in its name, as 16 kHz mono 16-bit WAV.
# Needs: apt install flite. To add an utterance, write its .txt and run this.
set -eu
cd "$(dirname "$0")/../examples/audio"
command -v flite >/dev/null || { echo "flite is not installed: sudo apt install flite" >&2; exit 1; }
for text in *.txt; do
    name=${text%.txt}
    voice=${name#*-}
    voice=${voice%%-*}
    flite -voice "$voice" -f "$text" -o "$name.wav"
    echo "$name.wav: $(cat "$text")"
done
