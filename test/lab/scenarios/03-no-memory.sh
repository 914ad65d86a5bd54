# shows: a guest with more memory than there is is refused with a sentence that says so, and starts once it asks for less
define win memory=8192
refused win "cannot get 4096 huge pages of 2048 KiB: <N> (<N> GiB) are missing; node 1 has <N> GiB free and <N> MiB reclaimable; \
close programs, lower the guest's <memory>, or reserve pages at boot"
as_before "$REFUSAL"
define win
start win
prepared win
stop win
as_before
