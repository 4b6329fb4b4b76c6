# bash completion for kup(1)

_kup_units() {
    systemctl list-unit-files --type=service --no-legend --no-pager 2>/dev/null | awk '{ print $1 }'
}

_kup_kernels() {
    local image
    for image in /boot/vmlinuz-*; do
        echo "${image#/boot/vmlinuz-}"
    done
}

_kup_updates() {
    kup history 2>/dev/null | awk '/^[0-9]/ { print $4 }'
}

_kup() {
    local cur prev words cword
    _init_completion || return

    local verb='' word verbs='preserve release list check update rollback abort status history plot export import'
    for word in "${words[@]:1:cword-1}"; do
        [[ " $verbs " == *" $word "* ]] && verb=$word && break
    done

    case $prev in
    --target) mapfile -t COMPREPLY < <(compgen -W "$(_kup_kernels)" -- "$cur") && return ;;
    --allow-restart) mapfile -t COMPREPLY < <(compgen -W "$(_kup_units)" -- "$cur") && return ;;
    --adjust) mapfile -t COMPREPLY < <(compgen -W 'no-io-uring private-ipc' -- "$cur") && return ;;
    --storage) mapfile -t COMPREPLY < <(compgen -W 'auto disk ram' -- "$cur") && return ;;
    --fallback) mapfile -t COMPREPLY < <(compgen -W 'disk none' -- "$cur") && return ;;
    --health-check) mapfile -t COMPREPLY < <(compgen -c -- "$cur") && return ;;
    esac

    local options='--json --help'
    case $verb in
    '') options+=' --version' ;;
    preserve) options+=' --adjust --health-check --fallback --storage' ;;
    check) options+=' --target' ;;
    rollback) options+=' --allow-restart --yes' ;;
    update) options+=' --target --allow-restart --stage-only --yes' ;;
    esac

    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        return
    fi
    case $verb in
    '') mapfile -t COMPREPLY < <(compgen -W "$verbs help" -- "$cur") ;;
    plot) mapfile -t COMPREPLY < <(compgen -W "$(_kup_updates)" -- "$cur") ;;
    export | import)
        if [[ $prev == "$verb" ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_kup_units)" -- "$cur")
        else
            _filedir -d
        fi
        ;;
    preserve | release | check) mapfile -t COMPREPLY < <(compgen -W "$(_kup_units)" -- "$cur") ;;
    esac
}

complete -F _kup kup
