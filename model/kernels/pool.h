// One pool of threads for all kernels: tasks are claimed in order, their results may not depend on who runs them.
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

// Scratch memory of one worker, at least `floats` long, kept for later calls; and the same shared by an operator's tasks.
float* worker_scratch(int worker, int64_t floats);
float* shared_workspace(int64_t floats);
