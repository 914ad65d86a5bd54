# fish completion for qemu-hook. Made by: go test ./cmd/qemu-hook -run TestDocs -update

function __qemu_hook_names
    for file in /etc/libvirt/qemu/*.xml /var/lib/libvirt/qemu/*.xml
        string replace -r '.*/(.*)\.xml$' '$1' -- $file
    end
end

function __qemu_hook_addresses
    for dir in /sys/bus/pci/devices/*
        string replace -r '.*/' '' -- $dir
    end
end

complete -c qemu-hook -f
complete -c qemu-hook -l root -x -a '(__fish_complete_directories)' -d 'a root directory'
complete -c qemu-hook -n __fish_use_subcommand -a prepare -d 'get the host ready for a guest, as libvirt would have it done'
complete -c qemu-hook -n '__fish_seen_subcommand_from prepare' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from prepare' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from prepare' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a release -d 'give back what a guest has, by what is recorded'
complete -c qemu-hook -n '__fish_seen_subcommand_from release' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from release' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from release' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a start -d 'an event of libvirt\'s at which this hook does nothing'
complete -c qemu-hook -n '__fish_seen_subcommand_from start' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from start' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from start' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a started -d 'note that the guest runs, and settle what exists only now'
complete -c qemu-hook -n '__fish_seen_subcommand_from started' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from started' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from started' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a stopped -d 'an event of libvirt\'s at which this hook does nothing'
complete -c qemu-hook -n '__fish_seen_subcommand_from stopped' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from stopped' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from stopped' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a reconnect -d 'check a running guest\'s host, and settle it again'
complete -c qemu-hook -n '__fish_seen_subcommand_from reconnect' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from reconnect' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from reconnect' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a plan -d 'what prepare would do, line by line; nothing is changed'
complete -c qemu-hook -n '__fish_seen_subcommand_from plan' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from plan' -l json
complete -c qemu-hook -n '__fish_seen_subcommand_from plan' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from plan' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a needs -d 'what a domain XML asks for, whatever the host is'
complete -c qemu-hook -n '__fish_seen_subcommand_from needs' -l json
complete -c qemu-hook -n '__fish_seen_subcommand_from needs' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from needs' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a check -d 'every reason why prepare would fail, and what gets in the way'
complete -c qemu-hook -n '__fish_seen_subcommand_from check' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from check' -l config-only
complete -c qemu-hook -n '__fish_seen_subcommand_from check' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from check' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a status -d 'who holds what, what has drifted, the last refusals'
complete -c qemu-hook -n '__fish_seen_subcommand_from status' -l json
complete -c qemu-hook -n __fish_use_subcommand -a log -d 'what became of a guest\'s last run, step by step'
complete -c qemu-hook -n '__fish_seen_subcommand_from log' -l all
complete -c qemu-hook -n '__fish_seen_subcommand_from log' -l follow
complete -c qemu-hook -n '__fish_seen_subcommand_from log' -l json
complete -c qemu-hook -n '__fish_seen_subcommand_from log' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a recover -d 'give back what guests that no longer run still hold'
complete -c qemu-hook -n '__fish_seen_subcommand_from recover' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from recover' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a holders -d 'who has a PCI function open, or what hangs on it'
complete -c qemu-hook -n '__fish_seen_subcommand_from holders' -l json
complete -c qemu-hook -n '__fish_seen_subcommand_from holders' -a '(__qemu_hook_addresses)'
complete -c qemu-hook -n __fish_use_subcommand -a groups -d 'the IOMMU groups with their functions and drivers'
complete -c qemu-hook -n '__fish_seen_subcommand_from groups' -l json
complete -c qemu-hook -n __fish_use_subcommand -a topology -d 'a picture of the host and of who has what of it'
complete -c qemu-hook -n '__fish_seen_subcommand_from topology' -l json
complete -c qemu-hook -n '__fish_seen_subcommand_from topology' -l svg -r -F
complete -c qemu-hook -n __fish_use_subcommand -a suggest -d 'what a guest\'s XML should say of CPUs, nodes and pages'
complete -c qemu-hook -n '__fish_seen_subcommand_from suggest' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from suggest' -l xml -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from suggest' -a '(__qemu_hook_names)'
complete -c qemu-hook -n __fish_use_subcommand -a snapshot -d 'what this program reads of the host, for a bug report'
complete -c qemu-hook -n '__fish_seen_subcommand_from snapshot' -l config -r -F
complete -c qemu-hook -n __fish_use_subcommand -a bind -d 'put PCI functions on vfio without a guest, until unbind'
complete -c qemu-hook -n '__fish_seen_subcommand_from bind' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from bind' -a '(__qemu_hook_addresses)'
complete -c qemu-hook -n __fish_use_subcommand -a unbind -d 'give back what bind has taken, or what stayed'
complete -c qemu-hook -n '__fish_seen_subcommand_from unbind' -l config -r -F
complete -c qemu-hook -n '__fish_seen_subcommand_from unbind' -a '(__qemu_hook_addresses)'
complete -c qemu-hook -n __fish_use_subcommand -a import -d 'what becomes of the hook scripts that are there'
complete -c qemu-hook -n __fish_use_subcommand -a install -d 'put the program, its hook and the unit for recover in place'
complete -c qemu-hook -n '__fish_seen_subcommand_from install' -l dry-run
complete -c qemu-hook -n '__fish_seen_subcommand_from install' -l replace
complete -c qemu-hook -n __fish_use_subcommand -a uninstall -d 'take back what install has done'
complete -c qemu-hook -n '__fish_seen_subcommand_from uninstall' -l dry-run
complete -c qemu-hook -n __fish_use_subcommand -a demo -d 'the main job on a model host: no root, no GPU, no libvirt'
complete -c qemu-hook -n __fish_use_subcommand -a version -d 'print the version'
complete -c qemu-hook -n __fish_use_subcommand -a help -d 'print this, or more about a command'
complete -c qemu-hook -n '__fish_seen_subcommand_from help' -a 'prepare release start started stopped reconnect plan needs check status log recover holders groups topology suggest snapshot bind unbind import install uninstall demo version help'
