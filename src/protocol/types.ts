/** Made from interface.ts by `npm run generate`; a test compares. Optional members are absent, never null. */

export interface File {
  token: string
  kind: string
  compatible: string
  format?: string
  bytes?: string
  until?: 'update'
}

export interface FileIn {
  token: string
  fd: number
  format?: string
  until?: 'update'
}

export interface FileOut {
  token: string
  fd: number
  kind: string
  format?: string
}

export interface Session {
  session: string
  name: string
  uid: number
  workload?: string
  custody: 'held' | 'frozen' | 'orphaned'
  files: number
  bytes: string
  keep_ms: number
  age_ms: number
  pid?: number
  expires_ms?: number
}

export interface Workload {
  name: string
  uid: number
  state: 'starting' | 'running' | 'updating' | 'orphaned' | 'stopped'
  pid?: number
  supervised: boolean
  generation: number
  keep_ms: number
  formats: string[]
  sessions: number
  files: number
  bytes: string
  update?: string
  after?: string[]
}

export interface Phase {
  phase:
    | 'starting'
    | 'joined'
    | 'preparing'
    | 'restoring'
    | 'committing'
    | 'aborting'
    | 'committed'
    | 'rolledBack'
    | 'orphaned'
    | 'checked'
  at_ms: number
  who?: number
  reason?: string
  code?: string
}

export interface Usage {
  uid: number
  connections: number
  workloads: number
  sessions: number
  files: number
  bytes: number
  watchers: number
}

export interface HistoryEvent {
  event: string
  at: string
  workload?: string
  session?: string
  uid: number
  by_uid?: number
  pid?: number
  method?: string
  update?: string
  group?: string
  outcome?: string
  code?: string
  detail?: string
  blackout_ms?: number
  duration_ms?: number
  old_pid?: number
  new_pid?: number
  times?: number
  last_at?: string
  spans?: Record<string, number>
}

export interface GroupOutcome {
  workload: string
  update: string
  outcome: 'committed' | 'rolledBack' | 'orphaned' | 'checked'
  blackout_ms?: number
  timeline: Phase[]
}

export interface Machine {
  machine: string
  uid: number
  programs: boolean
  holds_state: boolean
  live_update_number: string
}

export interface KernelSession {
  name: string
  direction?: 'outgoing' | 'incoming'
  pid: number
  command: string
}

export interface Takeover {
  how: 'upgrade' | 'crash' | 'kexec'
  at: string
  from_pid: number
  from_version: string
  pause_ms: number
  findings: number
}

export interface Protection {
  kind: 'none' | 'standby' | 'store'
  ready: boolean
  pid?: number
  lost: number
}

export interface Methods {
  Join: {
    input: {
      id: string
      workload: string
      accepts: string[]
      keep_ms?: number
      after?: string[]
      fds?: number
    }
    output: {
      member: string
      session: string
      origin: 'new' | 'update' | 'crash'
      update?: string
      fds: number
      session_fd: number
    }
  }
  Subscribe: {
    input: {
      member: string
    }
    output: {
      event: 'subscribed' | 'prepare' | 'resume' | 'release'
      update?: string
      deadline_ms?: number
      purpose?: 'update' | 'kexec'
      reason?: string
    }
  }
  Claim: {
    input: {
      id: string
      member: string
    }
    output: {
      session: string
      files: File[]
      total: number
      sessions: Session[]
      fds: number
    }
  }
  Ready: {
    input: {
      id: string
      member: string
      update: string
      files?: FileIn[]
      held_ms?: number
      fds?: number
    }
    output: Record<string, never>
  }
  Refuse: {
    input: {
      id: string
      member: string
      update: string
      reason: string
      held_ms?: number
    }
    output: Record<string, never>
  }
  Commit: {
    input: {
      id: string
      member: string
    }
    output: {
      released: 'word' | 'death' | 'none'
    }
  }
  Released: {
    input: {
      id: string
      member: string
      update: string
    }
    output: Record<string, never>
  }
  CreateSession: {
    input: {
      id: string
      name: string
      member?: string
      keep_ms?: number
    }
    output: {
      session: Session
      fds: number
      session_fd: number
    }
  }
  AdoptSession: {
    input: {
      id: string
      session?: string
      name?: string
      member?: string
      fds?: number
    }
    output: {
      session: Session
      fds?: number
      session_fd?: number
    }
  }
  ReleaseSession: {
    input: {
      id: string
      session?: string
      name?: string
      force?: boolean
    }
    output: {
      files: number
    }
  }
  Preserve: {
    input: {
      id: string
      session: string
      files: FileIn[]
      fds: number
    }
    output: Record<string, never>
  }
  Unpreserve: {
    input: {
      id: string
      session: string
      tokens: string[]
    }
    output: Record<string, never>
  }
  Retrieve: {
    input: {
      session: string
      tokens?: string[]
      offset?: number
    }
    output: {
      files: FileOut[]
      total: number
      fds: number
    }
  }
  Files: {
    input: {
      session: string
      offset?: number
      limit?: number
    }
    output: {
      files: File[]
      total: number
    }
  }
  Sessions: {
    input: {
      offset?: number
      limit?: number
    }
    output: {
      sessions: Session[]
      total: number
    }
  }
  Supervise: {
    input: {
      id: string
      workload: string
      keep_ms?: number
      after?: string[]
    }
    output: {
      event: 'supervising' | 'start' | 'ended'
      update?: string
      command?: string[]
      outcome?: string
      reason?: string
      fds?: number
    }
  }
  Spawned: {
    input: {
      id: string
      workload: string
      update: string
      pid: number
      fds: number
    }
    output: Record<string, never>
  }
  SpawnFailed: {
    input: {
      id: string
      workload: string
      update: string
      reason: string
    }
    output: Record<string, never>
  }
  Emulate: {
    input: {
      id: string
      machine: string
      handlers?: 'kernel' | 'all'
      fail?: string[]
      again?: boolean
    }
    output: {
      event: 'attached' | 'endPrograms'
      fds?: number
      channel_fd?: number
    }
  }
  KexecMachine: {
    input: {
      id: string
      machine: string
    }
    output: {
      live_update_number: string
    }
  }
  Machines: {
    input: Record<string, never>
    output: {
      machines: Machine[]
    }
  }
  EndMachine: {
    input: {
      id: string
      machine: string
    }
    output: Record<string, never>
  }
  Update: {
    input: {
      id: string
      workload: string
      deadline_ms?: number
      check?: 'successor' | 'prepare'
      command?: string[]
    }
    output: {
      update: string
      phase?: Phase
      outcome?: 'committed' | 'rolledBack' | 'orphaned' | 'checked'
      blackout_ms?: number
      timeline?: Phase[]
    }
  }
  UpdateGroup: {
    input: {
      id: string
      workloads: string[]
      deadline_ms?: number
      check?: 'successor' | 'prepare'
    }
    output: {
      group: string
      workload?: string
      update?: string
      phase?: Phase
      outcomes?: GroupOutcome[]
    }
  }
  Abort: {
    input: {
      id: string
      workload: string
    }
    output: {
      update: string
    }
  }
  List: {
    input: Record<string, never>
    output: {
      workloads: Workload[]
    }
  }
  Show: {
    input: {
      workload: string
    }
    output: {
      workload: Workload
      sessions: Session[]
    }
  }
  Watch: {
    input: {
      workload?: string
    }
    output: {
      event: string
      at?: string
      workload?: string
      session?: string
      uid?: number
      by_uid?: number
      pid?: number
      method?: string
      update?: string
      group?: string
      outcome?: string
      code?: string
      detail?: string
      blackout_ms?: number
      duration_ms?: number
      old_pid?: number
      new_pid?: number
    }
  }
  History: {
    input: {
      workload?: string
      limit?: number
    }
    output: {
      events: HistoryEvent[]
      dropped: number
    }
  }
  Upgrade: {
    input: {
      id: string
      to?: string
    }
    output: {
      phase: 'starting' | 'ready'
      pid: number
      version?: string
    }
  }
  Kexec: {
    input: {
      id: string
      deadline_ms?: number
      dry_run?: boolean
      how?: 'direct' | 'systemd'
      drop?: string[]
    }
    output: {
      kexec: string
      step?: 'asking' | 'preserving' | 'preserved' | 'stopping' | 'rebooting' | 'undone'
      at_ms?: number
      workload?: string
      update?: string
      phase?: Phase
      sessions?: number
      files?: number
      bytes?: string
      warnings?: string[]
    }
  }
  AbortKexec: {
    input: {
      id: string
    }
    output: {
      kexec: string
    }
  }
  KernelSessions: {
    input: Record<string, never>
    output: {
      sessions: KernelSession[]
      complete: boolean
    }
  }
  OpenKernelSession: {
    input: {
      id: string
      name: string
      direction: 'outgoing' | 'incoming'
    }
    output: {
      fds: number
      session_fd: number
    }
  }
  Inspect: {
    input: Record<string, never>
    output: {
      fds: number
      records_fd: number
    }
  }
  Status: {
    input: Record<string, never>
    output: {
      pid: number
      version: string
      uid: number
      workloads: number
      sessions: number
      files: number
      connections: number
      nofile: number
      open_fds: number
      limits: Record<string, number>
      usage: Usage[]
      protection: Protection
      takeover?: Takeover
      backend: 'kernel' | 'userspace'
    }
  }
}
