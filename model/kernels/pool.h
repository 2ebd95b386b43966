// One pool of threads for all kernels. Threads claim tasks in order; a result must not depend on which thread ran it.
#pragma once
#include <cstdint>
#include <functional>

// Runs body(task, worker) for task = 0..tasks-1 and returns when all are done.
void parallel(int64_t tasks, const std::function<void(int64_t task, int worker)>& body);
int pool_size();

// Holds the pool and the shared workspace while an operator runs (operators run one after the other).
struct OperatorLock {
  OperatorLock();
  ~OperatorLock();
};

// Scratch memory of at least `floats`, kept for later calls: of one worker, and shared by all tasks of an operator.
float* worker_scratch(int worker, int64_t floats);
float* shared_workspace(int64_t floats);
